"""Whoever does not keep up loses messages, is told exactly how many and where, and holds up nobody."""

from __future__ import annotations

import json

import pytest
import trio

from tests.support.client import Event, Stream, account, streaming, streams
from tests.support.process import Service
from tests.support.variants import VARIANTS

pytestmark = pytest.mark.integration

BIG = "x" * 60_000


def is_last(event: Event) -> bool:
    return '"last"' in event.data


async def test_a_client_that_stops_reading_and_goes_on(served: Service) -> None:
    count = 300
    async with (
        streaming(served.port, "slow", receive_buffer=4096) as slow,
        streaming(served.port, "quick") as quick,
    ):
        for n in range(count):
            served.publish(["slow", "quick"], n=n, big=BIG)
            assert (await quick.notification())["n"] == n
        assert served.get("/readyz").json["totals"]["dropped"], "the socket of the slow one is full"
        # Read until the gap has been told, so that there is room again for one that says it is the last.
        events = await slow.until(lambda event: event.name == "gap")
        served.publish("slow", n=count, last=True)
        events += await slow.until(is_last)
        received, dropped = account(events)
        assert received + dropped == count + 1
        assert received > 10, "what the buffers held"
        assert dropped > 0


@pytest.mark.slow
@pytest.mark.parametrize("served", VARIANTS[:4], indirect=True, ids=str)
async def test_every_message_of_a_burst_is_delivered_or_declared_lost(served: Service) -> None:
    users, each = 1000, 20
    names = [f"burst-{n}" for n in range(users)]
    results: list[tuple[int, int]] = []

    async def read(stream: Stream) -> None:
        events: list[Event] = []
        while sum(account(events)) < each:
            events.append(await stream.event())
        results.append(account(events))

    async with streams(served.port, names) as opened:
        payloads = [json.dumps({"user_id": name, "n": n}).encode() for n in range(each) for name in names]
        async with trio.open_nursery() as nursery:
            for stream in opened:
                nursery.start_soon(read, stream)
            await trio.to_thread.run_sync(served.publish_raw, payloads)
    assert [received + dropped for received, dropped in results] == [each] * users
