"""Messages over HTTP into a log in partitions, and what becomes of them: one Redis, and a cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis
import trio
from redis.crc import key_slot

from tests.support.clusters import Cluster
from tests.support.inside import PATIENCE_SECONDS, Client, until
from tests.support.partitioned import LAYOUT, Partitioned, connected, partitioned
from trio_sse.broker.publisher import ConflictError, Published, UnavailableError, _own
from trio_sse.broker.sender import idempotency_key
from trio_sse.delivery.partitions import Layout, Partition, parse_place
from trio_sse.delivery.targets import topic

Start = Callable[..., AbstractAsyncContextManager[Partitioned]]


@pytest.fixture(params=["one", "cluster"])
def start(request: pytest.FixtureRequest, port: int) -> Start:
    """Starts a service on an empty log: of one Redis, or of a cluster."""
    if request.param == "one":
        with redis.Redis(port=port) as client:
            client.flushall()
        return partial(partitioned, port)
    nodes: Cluster = request.getfixturevalue("three")
    for node in nodes.masters:
        node.client.flushall()
    return partial(partitioned, redis_cluster=",".join(node.address for node in nodes.masters))


def message(number: int, *users: str, **target: Any) -> bytes:
    named = {"user_id": list(users)} if users else {}
    return json.dumps({**named, **target, "n": number, "created_at": 0}).encode()


def became(published: Published) -> tuple[int, int, int] | None:
    receipt = published.receipt
    return None if receipt is None else (receipt.took, receipt.buffered, receipt.dropped)


def elsewhere(user: str) -> str:
    """Another user, in another partition."""
    names = (f"u{number}" for number in range(100))
    return next(name for name in names if LAYOUT.of(name) != LAYOUT.of(user))


BOB = elsewhere("ann")


@asynccontextmanager
async def followed(
    start: Start, *users: str, **values: Any
) -> AsyncIterator[tuple[Partitioned, list[Client]]]:
    """A service with streams of these users, who are connected."""
    async with start(**values) as running:
        await until(lambda: running.service.subscriber.problem is None)
        clients = [running.join(user) for user in users]
        await connected(*clients)
        yield running, clients


async def test_what_is_published_is_delivered_and_told(start: Start) -> None:
    async with followed(start, "ann", "ann", BOB) as (running, clients):
        payloads = [message(1, "ann"), message(2, BOB), message(3, "ann", BOB), message(4, user_id="*")]
        published, repeated = await running.service.publisher.publish(payloads, None)
        assert not repeated
        assert [became(one) for one in published] == [(2, 0, 0), (1, 0, 0), (3, 0, 0), (3, 0, 0)]
        assert [client.numbers for client in clients] == [[1, 3, 4], [1, 3, 4], [2, 3, 4]]
        assert not running.service.hub.receipts


async def test_a_stream_that_follows_several_partitions_counts_once(start: Start) -> None:
    news = "news" if LAYOUT.of(topic("news")) != LAYOUT.of("ann") else "sport"
    async with followed(start, "ann") as (running, (ann,)):
        both = running.join("ann", [news])
        await connected(both)
        several = message(1, "ann", BOB, topic=news)
        payloads = [several, message(2, user_id="*"), message(3, topic=news)]  # read together
        published, _ = await running.service.publisher.publish(payloads, None)
        assert [became(one) for one in published] == [(2, 0, 0), (2, 0, 0), (1, 0, 0)]
        await until(lambda: ann.numbers == [1, 2] and sorted(both.numbers) == [1, 2, 3])


async def test_the_id_is_the_place_behind_the_message(start: Start) -> None:
    async with followed(start, "ann") as (running, _):
        publish = running.service.publisher.publish
        (first, second), _ = await publish([message(1, "ann"), message(2, "ann", BOB)], None)
        assert first.id is not None
        assert second.id is not None
        place, of_two = parse_place(first.id), parse_place(second.id)
        assert place is not None
        assert of_two is not None
        assert place.published
        assert list(place.parts) == [Partition(8, LAYOUT.of("ann"))]
        assert list(of_two.parts) == [Partition(8, LAYOUT.of("ann")), Partition(8, LAYOUT.of(BOB))]
        await publish([message(3, "ann")], None)
        later = running.join("ann", last_event_id=first.id)
        last = running.join("ann", last_event_id=second.id)
        await until(lambda: later.numbers == [2, 3] and last.numbers == [3])


async def test_whom_nobody_here_follows_is_told_at_once_and_another_process_has_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_sse.broker.publisher.DELIVERY_SECONDS", 1_000)
    async with followed(start, "ann") as (running, _), followed(start, BOB) as (_, (bob,)):
        with trio.fail_after(PATIENCE_SECONDS):
            payloads = [message(1, BOB), message(2, "ann", BOB)]
            published, _ = await running.service.publisher.publish(payloads, None)
        assert [became(one) for one in published] == [(0, 0, 0), (1, 0, 0)]
        assert all(one.id for one in published)
        await until(lambda: bob.numbers == [1, 2])


async def test_the_same_idempotency_key_publishes_once(start: Start) -> None:
    async with followed(start, "ann", BOB) as (running, clients):
        publish = running.service.publisher.publish
        payloads = [message(1, "ann"), message(2, BOB, "ann"), message(3, "ann")]
        first, repeated = await publish(payloads, "order-17")
        assert not repeated
        for _ in range(2):
            again, repeated = await publish(payloads, "order-17")
            assert repeated
            assert [one.receipt for one in again] == [None] * 3
            assert [one.id for one in again] == [one.id for one in first]
        with pytest.raises(ConflictError):
            await publish([message(9, BOB)], "order-17")
        assert not (await publish(payloads, "order-17", "another token"))[1]
        await until(lambda: [client.numbers for client in clients] == [[1, 2, 3] * 2, [2] * 2])
        assert not running.service.hub.receipts


async def test_equal_messages_of_many_are_all_published_and_counted(start: Start) -> None:
    async with followed(start, "ann", BOB) as (running, clients):
        told: list[Published] = []

        async def publish() -> None:
            equal = message(1, "ann", BOB)
            told.extend((await running.service.publisher.publish([equal, equal], None))[0])

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(publish)
        assert [became(one) for one in told] == [(2, 0, 0)] * 20
        assert len({one.id for one in told}) == 20
        assert [client.numbers for client in clients] == [[1] * 20] * 2


async def test_while_a_log_is_replaced_it_is_read_and_written_no_more(start: Start) -> None:
    """What `SSE_REDIS_STREAM_BEFORE` has comes too; `POST /publish` adds to the new one alone."""
    logs = {"redis_stream": "new", "redis_stream_before": "notes/8", "stream_partitions": 4}
    async with followed(start, "ann", **logs) as (running, (ann,)):
        (published,), _ = await running.service.publisher.publish([message(1, "ann")], None)
        assert became(published) == (1, 0, 0)
        place = parse_place(published.id or "")
        assert place is not None
        assert list(place.parts) == [Partition(4, Layout("new", 4).of("ann"))]
        await until(lambda: ann.numbers == [1])


async def test_a_partition_that_takes_nothing_lets_nothing_be_published_of_one_redis(port: int) -> None:
    """Unless others had been added before it: then nobody can say that nothing was."""
    with redis.Redis(port=port) as client:
        client.flushall()
        client.set(LAYOUT.name(LAYOUT.of(BOB)), "no stream")
        async with followed(partial(partitioned, port), "ann") as (running, (ann,)):
            publish = running.service.publisher.publish
            for key in (None, "key"):
                with pytest.raises(UnavailableError, match="SSE_REDIS_STREAM must name a stream") as caught:
                    await publish([message(1, BOB, "ann")], key)
                assert not caught.value.unsure
                with pytest.raises(UnavailableError, match="a part was published") as caught:
                    await publish([message(2, "ann", BOB)], key)
                assert caught.value.unsure
            await until(lambda: ann.numbers == [2, 2])


async def test_what_was_published_in_part_is_completed_and_no_partition_has_it_twice(three: Cluster) -> None:
    for node in three.masters:
        node.client.flushall()
    addresses = ",".join(node.address for node in three.masters)
    users = [next(f"u{n}" for n in range(1000) if LAYOUT.of(f"u{n}") == number) for number in range(8)]
    payloads = [message(1, user) for user in users] + [message(2, *users)]
    async with followed(partial(partitioned, redis_cluster=addresses), *users) as (running, clients):
        publish = running.service.publisher.publish
        frozen = three.master_of(LAYOUT.name(0))
        homes = [three.master_of(LAYOUT.name(number)) for number in range(8)]
        # The key of the request itself must be at another master.
        key = next(f"k{n}" for n in range(100) if three.master_of(_kept(f"k{n}")) is not frozen)
        control = redis.Redis(port=frozen.port)
        # Of writes alone: otherwise the command that ends it would wait for its end.
        control.client_pause(60_000, all=False)  # type: ignore[no-untyped-call,unused-ignore]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio_sse.broker.post.ANSWER_SECONDS", 0.3)
            patch.setattr("trio_sse.broker.link.CONNECT_SECONDS", 0.3)
            for _ in range(2):
                with pytest.raises(UnavailableError, match="a part was published") as caught:
                    await publish(payloads, key)
                assert caught.value.unsure
        control.client_unpause()  # type: ignore[no-untyped-call,unused-ignore]
        control.close()
        with pytest.raises(ConflictError):
            await publish(payloads[:1], key)
        published, repeated = await publish(payloads, key)
        assert not repeated
        assert (await publish(payloads, key))[1]
        for number, home in enumerate(homes):
            added: Any = home.client.xrange(LAYOUT.name(number))
            assert [fields[b"payload"] for _, fields in added] == [payloads[number], payloads[-1]]
        places = [parse_place(one.id or "") for one in published]
        assert all(places)
        await until(lambda: all(client.numbers == [1, 2] for client in clients))


def _kept(key: str) -> str:
    return idempotency_key("notes/8", _own(key, ""))


async def test_slots_that_moved_are_found(three: Cluster) -> None:
    for node in three.masters:
        node.client.flushall()
    addresses = ",".join(node.address for node in three.masters)
    name = LAYOUT.name(LAYOUT.of("ann"))
    async with followed(partial(partitioned, redis_cluster=addresses)) as (running, _):
        home = three.master_of(name)
        other = next(node for node in three.masters if node is not home)
        three.move(key_slot(name.encode()), other)
        for key in (None, "moved"):
            await running.service.publisher.publish([message(1, "ann")], key)
        assert other.client.xlen(name) == 2


async def test_who_asks_what_became_of_it_is_told_once_for_each_stream(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.flushall()
        async with followed(partial(partitioned, port, reply_lists="replies:"), "ann", BOB) as (running, _):
            both = running.join("ann", ["news", "sport", "orders/17"])
            await connected(both)
            asking = message(1, "ann", BOB, "nobody", topic=["news", "sport"], reply_to="replies:1")
            (published,), _ = await running.service.publisher.publish([asking], None)
            assert became(published) == (3, 0, 0)
            told: Any = []
            await until(lambda: told.extend(client.lrange("replies:1", len(told), -1)) or _streams(told) == 3)
            assert len(told) == 2  # partitions that brought it to somebody


def _streams(told: list[bytes]) -> int:
    return sum(json.loads(one)["streams"] for one in told)
