"""Coming back with Last-Event-ID: what was missed, once and in order, or a declared `gap`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import trio

from tests.support.client import Event, Stream, connect, eventually, streaming
from tests.support.process import Service, Services
from tests.support.valkeys import breakable
from tests.support.variants import COMMANDS, TRIO_SSE, VARIANTS, Variant

pytestmark = pytest.mark.integration


@asynccontextmanager
async def resuming(service: Service, user: str, last_event_id: str) -> AsyncIterator[Stream]:
    headers = [("last-event-id", last_event_id)]
    async with streaming(service.port, user, headers=headers) as stream:
        yield stream


def published(service: Service) -> int:
    return int(service.get("/readyz").json["totals"]["published"])


async def test_what_was_missed_arrives_before_what_is_new(served: Service) -> None:
    user = "resume"
    async with streaming(served.port, user) as stream:
        for n in range(40):
            served.publish(user, n=n)
        served.publish("somebody else", n=-1)
        events = [await stream.event() for _ in range(40)]
    async with resuming(served, user, events[4].id) as stream:
        assert stream.connected.json["replayed"] == 35, "more than the buffer of 10"
        assert stream.connected.id == events[4].id, "cut off now it would come back to the same place"
        served.publish(user, n=40)
        assert await stream.numbers(36) == list(range(5, 41))


async def test_by_query_for_clients_that_cannot_set_the_header(served: Service) -> None:
    async with streaming(served.port, "query") as stream:
        served.publish("query", n=0)
        served.publish("query", n=1)
        first = await stream.event()
    async with streaming(served.port, f"query&last_event_id={first.id}") as stream:
        assert await stream.numbers(1) == [1]


async def test_before_the_first_message_the_confirmation_is_the_place(served: Service) -> None:
    async with streaming(served.port, "first") as stream:
        place = stream.connected.id
    served.publish("first", n=0)
    async with resuming(served, "first", place) as stream:
        assert await stream.numbers(1) == [0]


@pytest.mark.parametrize(
    "last_event_id", ["nonsense", "1795462559402-0", "0123456789ab.5", "x" * 5, "9" * 5000]
)
async def test_an_unknown_place_is_a_gap(served: Service, last_event_id: str) -> None:
    async with resuming(served, "unknown", last_event_id) as stream:
        gap = await stream.event()
        assert gap.name == "gap"
        assert gap.json == {"reason": "unknown_id", "dropped": None}
        assert stream.connected.id == "", "cut off before the gap it would be told again"
        place = gap.id
        served.publish("unknown", n=0)
        assert await stream.numbers(1) == [0]
    async with resuming(served, "unknown", place) as stream:
        assert await stream.numbers(1) == [0]


async def test_beyond_what_is_kept_is_a_gap(start: Services) -> None:
    service = start(SSE_HISTORY_MESSAGES="5")
    async with streaming(service.port) as stream:
        place = stream.connected.id
    for n in range(10):
        service.publish(1, n=n)
    await eventually(lambda: published(service) == 10, "half of them are kept")
    async with resuming(service, "1", place) as stream:
        assert stream.connected.json["replayed"] == 5
        gap = await stream.event()
        assert gap.json == {"reason": "history_expired", "dropped": None}
        assert await stream.numbers(5) == [5, 6, 7, 8, 9]


async def test_redis_lost_while_a_client_was_away_is_told_when_it_comes_back(served: Service) -> None:
    async with streaming(served.port, "away") as stream, streaming(served.port, "witness") as witness:
        place = stream.connected.id
    async with streaming(served.port, "witness") as witness:
        with redis.Redis(port=int(served._redis.connection_pool.connection_kwargs["port"])) as admin:  # type: ignore[union-attr]
            admin.client_kill_filter(_type="pubsub")
        assert (await witness.event()).name == "gap"
    async with resuming(served, "away", place) as stream:
        assert (await stream.event()).json == {"reason": "redis_reconnected", "dropped": None}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_coming_back_again_and_again_at_full_rate(start: Services, variant: Variant) -> None:
    """Each number once and in order, however the stream is cut while messages are published."""
    service, count = start(variant), 6000
    received: list[int] = []
    place = ""

    def publish() -> None:
        for first in range(0, count, 50):
            service.publish_raw(json.dumps({"user_id": 1, "n": first + n}).encode() for n in range(50))

    async def until_cut(stream: Stream, events: int) -> None:
        nonlocal place
        for _ in range(events):
            event: Event = await stream.event()
            if event.name == "message":
                received.append(event.json["n"])
            assert event.name in ("message", "heartbeat"), event
            place = event.id
            if len(received) == count:
                return

    async with streaming(service.port) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, publish)
        await until_cut(stream, 7)
        for turn in range(100_000):
            if len(received) == count:
                break
            async with resuming(service, "1", place) as again:
                await until_cut(again, 13 * turn % 211)
    assert received == list(range(count))


async def test_a_large_replay_to_a_slow_client_arrives_whole(start: Services) -> None:
    service, count = start(SSE_MAX_MESSAGE_BYTES="100000"), 400
    async with streaming(service.port) as stream:
        place = stream.connected.id
    for n in range(count):
        service.publish(1, n=n, big="x" * 60_000)
    await eventually(lambda: published(service) == count, "all are kept")
    async with await connect(service.port, receive_buffer=4096) as transport:
        stream = Stream(transport)
        await stream.request("/sse", [("last-event-id", place)], "1.1")
        assert (await stream.event()).json["replayed"] == count
        for n in range(count):
            if n == 10:
                service.publish(1, n=count)
            assert (await stream.notification())["n"] == n
        assert (await stream.notification())["n"] == count


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_stream_in_redis_outlives_the_service(start: Services, variant: Variant, valkey: int) -> None:
    key = f"stream-{variant}"
    with redis.Redis(port=valkey, db=1) as back_end:

        def add(n: int) -> str:
            return str(back_end.xadd(key, {"payload": json.dumps({"user_id": 1, "n": n})}).decode())

        one = start(variant, SSE_REDIS_STREAM=key)
        async with streaming(one.port) as stream:
            ids = [add(n) for n in range(3)]
            events = [await stream.event() for _ in range(3)]
            assert [event.id for event in events] == ids
        one.stop()
        add(3)
        small: dict[str, Any] = {"SSE_HISTORY_MESSAGES": "2", "SSE_REDIS_STREAM": key}
        for another in (start(variant, SSE_REDIS_STREAM=key), start(variant, **small)):
            async with resuming(another, "1", ids[0]) as stream:
                assert stream.connected.json["replayed"] == 3
                assert await stream.numbers(3) == [1, 2, 3]


async def test_the_end_of_a_long_life_costs_nothing(start: Services) -> None:
    service = start(TRIO_SSE, SSE_MAX_STREAM_SECONDS="0.5")
    async with streaming(service.port) as stream:
        place = stream.connected.id
        await stream.to_the_end()
    service.publish(1, n=0)
    async with resuming(service, "1", place) as stream:
        assert await stream.numbers(1) == [0]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_one_who_waits_for_redis_hears_heartbeats(start: Services, variant: Variant) -> None:
    """A proxy that has waited for a minute would end the connection, again and again."""
    with breakable(started=False) as valkey:
        service = start(
            variant,
            ready="/healthz",
            redis_port=valkey.port,
            SSE_REDIS_STREAM="notes",
            SSE_HEARTBEAT_SECONDS="0.2",
        )
        async with await connect(service.port) as transport:
            stream = Stream(transport)
            await stream.request("/sse?user_id=ann", [("Last-Event-ID", "5-0")], "1.1")
            assert stream.status == 200
            for _ in range(3):
                event = await stream.event()
                assert (event.name, event.id) == ("heartbeat", "")
            await trio.to_thread.run_sync(valkey.start)
            events = await stream.until(lambda event: event.name == "connected")
            assert {event.name for event in events[:-1]} <= {"heartbeat"}
