"""Streams that end at a set time."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import Client, live
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.lifetimes import Lifetimes


@pytest.fixture
async def lifetimes(nursery: trio.Nursery) -> Lifetimes:
    lifetimes = Lifetimes()
    await nursery.start(lifetimes.run)
    return lifetimes


async def ended(connections: list[Connection], seconds: int) -> list[tuple[int, int]]:
    """Within so many seconds: when each connection was closed, and which it was."""
    began, found = trio.current_time(), []
    seen: set[int] = set()
    for second in range(seconds + 1):
        await trio.sleep_until(began + second)
        await wait_all_tasks_blocked()
        for number, connection in enumerate(connections):
            if connection.closed and number not in seen:
                seen.add(number)
                found.append((second, number))
    return found


def over() -> bytes:
    return b"event: over\ndata: {}\n\n"


async def test_streams_end_when_their_time_has_come(lifetimes: Lifetimes, autojump_clock: MockClock) -> None:
    connections = [live() for _ in range(4)]
    now = trio.current_time()
    for connection, seconds in zip(connections, (30, 10, 20, 10), strict=True):
        lifetimes.add(connection, now + seconds)
    assert await ended(connections, 40) == [(10, 1), (10, 3), (20, 2), (30, 0)]
    assert len(lifetimes) == 0


async def test_one_that_is_added_later_and_ends_earlier_is_ended_first(
    lifetimes: Lifetimes, autojump_clock: MockClock
) -> None:
    connections = [live() for _ in range(3)]
    now = trio.current_time()
    lifetimes.add(connections[0], now + 30)
    await wait_all_tasks_blocked()  # it waits for that one now
    lifetimes.add(connections[1], now + 10)
    await wait_all_tasks_blocked()
    lifetimes.add(connections[2], now + 20)
    assert await ended(connections, 40) == [(10, 1), (20, 2), (30, 0)]


async def test_after_all_have_ended_the_next_is_ended_too(
    lifetimes: Lifetimes, autojump_clock: MockClock
) -> None:
    for _ in range(2):
        connection = live()
        lifetimes.add(connection, trio.current_time() + 5)
        assert await ended([connection], 6) == [(5, 0)]


async def test_one_whose_time_is_over_ends_at_once(lifetimes: Lifetimes) -> None:
    connection = live()
    lifetimes.add(connection, -math.inf)
    await wait_all_tasks_blocked()
    assert connection.closed


async def test_last_words_are_said_and_only_to_the_one_they_are_for(
    lifetimes: Lifetimes, autojump_clock: MockClock
) -> None:
    connections = [live(), live(), live()]
    clients = [Client(connection) for connection in connections]
    for connection, words in zip(connections, (over, bytes, None), strict=True):
        if words is not None:
            lifetimes.add(connection, trio.current_time() + 5, words)
    await trio.sleep(6)
    assert [client.names for client in clients] == [["over"], [], []]
    assert [client.closed for client in clients] == [True, True, False]


async def test_a_stream_that_has_ended_by_itself_is_told_nothing(
    lifetimes: Lifetimes, autojump_clock: MockClock
) -> None:
    connection = live()
    client = Client(connection)
    lifetimes.add(connection, trio.current_time() + 5, over)
    connection.close()
    await trio.sleep(6)
    assert client.received == b""


async def test_a_connection_that_is_gone_is_kept_by_nobody_and_skipped(
    lifetimes: Lifetimes, autojump_clock: MockClock
) -> None:
    now = trio.current_time()
    leaves, stays = live(), live()
    lifetimes.add(leaves, now + 5, over)
    lifetimes.add(stays, now + 6)
    gone = weakref.ref(leaves)
    del leaves
    gc.collect()
    assert gone() is None
    assert await ended([stays], 10) == [(6, 0)]
    assert len(lifetimes) == 0


async def test_one_that_was_ended_is_not_held_until_the_next(lifetimes: Lifetimes) -> None:
    connection = live()
    lifetimes.add(connection, -math.inf)
    await wait_all_tasks_blocked()
    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None
