"""Messages to the masters of a real cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
import trio
from redis.crc import key_slot

from tests.support.clusters import Cluster
from tests.support.inside import Client, opened, settings, until
from trio_sse.broker.publisher import ConflictError, UnavailableError
from trio_sse.delivery.flusher import flush_forever
from trio_sse.service import Service


@asynccontextmanager
async def running(nodes: Cluster) -> AsyncIterator[Service]:
    addresses = ",".join(node.address for node in nodes.masters)
    async with trio.open_nursery() as nursery:
        service = Service(settings(redis_routing="by-key", redis_channel="n", redis_cluster=addresses))
        await nursery.start(flush_forever, service.hub)
        await nursery.start(service.subscriber.run)
        await until(lambda: service.subscriber.problem is None)
        yield service
        nursery.cancel_scope.cancel()


def message(number: int, **target: object) -> bytes:
    return json.dumps({**target, "n": number, "created_at": 0}).encode()


async def followers(service: Service, *users: str) -> list[Client]:
    clients = [Client(opened(service, user)) for user in users]
    await until(lambda: all("connected" in client.names for client in clients))
    return clients


async def test_each_message_reaches_those_it_is_for_over_all_masters(three: Cluster) -> None:
    async with running(three) as service:
        users = [f"user-{number}" for number in range(12)]
        clients = await followers(service, *users)
        published, repeated = await service.publisher.publish(
            [message(number, user_id=user) for number, user in enumerate(users)], None
        )
        await until(lambda: all(client.names.count("message") == 1 for client in clients))
    assert [client.numbers for client in clients] == [[number] for number in range(12)]
    assert not repeated
    assert [one.receipt.took for one in published if one.receipt] == [1] * 12


async def test_a_message_for_many_is_delivered_once_to_each(three: Cluster) -> None:
    async with running(three) as service:
        users = [f"user-{number}" for number in range(12)]
        clients = await followers(service, *users)
        both = Client(opened(service, "user-3"))
        await until(lambda: "connected" in both.names)
        await service.publisher.publish([message(1, user_id=users, topic="news")], None)
        await service.publisher.publish([message(2, user_id="*")], None)
        await until(lambda: all(2 in client.numbers for client in (*clients, both)))
    assert all(client.numbers == [1, 2] for client in (*clients, both))
    assert all("copy" not in data for data in clients[0].data)


async def test_a_message_for_nobody_here_is_known_to_have_reached_nobody(three: Cluster) -> None:
    async with running(three) as service:
        ((published,), _) = await service.publisher.publish([message(1, user_id="gone")], None)
        assert published.id is None
        assert published.receipt is not None
        assert (published.receipt.took, published.receipt.buffered) == (0, 0)


async def test_a_repetition_is_published_once(three: Cluster) -> None:
    async with running(three) as service:
        (client,) = await followers(service, "ann")
        payloads = [message(number, user_id="ann") for number in range(3)]
        assert not (await service.publisher.publish(payloads, "order-17"))[1]
        assert (await service.publisher.publish(payloads, "order-17"))[1]
        with pytest.raises(ConflictError):
            await service.publisher.publish([message(9, user_id="ann")], "order-17")
        await until(lambda: len(client.numbers) == 3)
    assert client.numbers == [0, 1, 2]


async def test_what_was_published_in_part_is_completed_and_nobody_gets_it_twice(three: Cluster) -> None:
    async with running(three) as service:
        clients = await followers(service, "ann", "bob", "cid", "dan")
        payloads = [message(1, user_id=user) for user in ("ann", "bob", "cid", "dan")]
        frozen = three.master_of("n:user:cid")
        assert {three.master_of(f"n:user:{user}") for user in ("ann", "bob", "dan")} != {frozen}
        redis_cli = redis.Redis(port=frozen.port)
        redis_cli.client_pause(3_000)  # type: ignore[no-untyped-call,unused-ignore]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio_sse.broker.post.ANSWER_SECONDS", 0.3)
            patch.setattr("trio_sse.broker.link.CONNECT_SECONDS", 0.3)
            with pytest.raises(UnavailableError) as caught:
                await service.publisher.publish(payloads, "in-part")
            assert caught.value.unsure
        redis_cli.client_unpause()  # type: ignore[no-untyped-call,unused-ignore]
        redis_cli.close()
        _, repeated = await service.publisher.publish(payloads, "in-part")
        assert not repeated
        await until(lambda: all(client.numbers for client in clients))
        await service.publisher.publish([message(2, user_id="*")], None)
        await until(lambda: all(2 in client.numbers for client in clients))
    assert [client.numbers for client in clients] == [[1, 2]] * 4


async def test_slots_that_moved_are_found(three: Cluster) -> None:
    async with running(three) as service:
        (client,) = await followers(service, "eve")
        slot = key_slot(b"n:user:eve")
        home = three.master_of("n:user:eve")
        other = next(node for node in three.masters if node is not home)
        three.move(slot, other)
        await service.publisher.publish([message(1, user_id="eve")], "moved")
        await until(lambda: "gap" in client.names or client.numbers == [1])
        await service.publisher.publish([message(2, user_id="eve")], "moved-2")
        await until(lambda: 2 in client.numbers)
