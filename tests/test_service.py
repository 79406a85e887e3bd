"""Settings in, a wired application out."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.support.inside import (
    Client,
    events,
    flush_now,
    note,
    opened,
    settings,
)
from trio_sse.service import Service


def test_making_an_application_starts_nothing() -> None:
    service = Service(settings(redis_host="no.such.host.invalid"))
    assert service.not_ready() == "Redis: not connected yet"


async def test_a_connection_is_in_the_hub_before_its_first_byte() -> None:
    service = Service(settings(buffer=3, heartbeat_seconds=7))
    connection = opened(service, "ann")
    assert service.hub.users == ["ann"]
    assert connection.open_channel()[0].statistics().max_buffer_size == 3
    assert events(connection.take_waiting())[0].json()["heartbeat_seconds"] == 7
    service.hub.leave(connection)


async def test_whoever_comes_back_is_counted_and_gets_what_was_missed() -> None:
    service = Service(settings())
    first = Client(opened(service, "ann"))
    service.hub.dispatch(note("ann", data=b"missed"))
    again = Client(opened(service, "ann", events(first.received)[0].id))
    assert again.names == ["connected", "message"]
    assert again.data[1] == "missed"
    assert service.counters.resumed == 1


async def test_every_stream_is_counted() -> None:
    service = Service(settings())
    service.release(opened(service, "ann"))
    opened(service, "ann")
    assert service.counters.streams == 2


async def test_positions_of_one_process_are_not_those_of_another() -> None:
    assert Service(settings()).history.sources.process != Service(settings()).history.sources.process


@pytest.mark.parametrize(("slow_client", "closed"), [("gap", False), ("disconnect", True)])
async def test_what_happens_to_a_slow_client_is_a_setting(slow_client: str, closed: bool) -> None:
    service = Service(settings(buffer=1, slow_client=slow_client))
    connection = opened(service, "ann")
    Client(connection).busy = True
    for _ in range(2):
        service.hub.dispatch(note("ann"))
    flush_now(service.hub)
    assert connection.closed is closed


async def test_while_it_drains_it_takes_no_streams_and_says_when_to_come_back() -> None:
    service = Service(settings(drain_seconds=5))
    service.hub.draining = True
    client = Client(opened(service, "ann"))
    assert client.names == ["draining"]
    assert client.closed
    assert len(service.hub) == 0
    assert service.not_ready() == "stopping"


async def test_streams_live_no_longer_than_they_may_and_do_not_end_together(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    service = Service(settings(max_stream_seconds=100))
    await nursery.start(service.lifetimes.run)
    began = trio.current_time()
    open_connections = {opened(service, str(number)) for number in range(50)}
    ended: list[float] = []
    while open_connections:
        await trio.sleep(1)
        closed = {connection for connection in open_connections if connection.closed}
        ended += [trio.current_time() - began] * len(closed)
        open_connections -= closed
    assert min(ended) >= 80
    assert max(ended) <= 101
    assert len(set(ended)) > 5


async def test_without_a_longest_life_nothing_is_noted() -> None:
    service = Service(settings())
    opened(service, "ann")
    assert len(service.lifetimes) == 0
