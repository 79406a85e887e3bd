"""From the first sign of the end to the last stream."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import Client, events, joined, new_hub
from trio_sse.delivery.hub import Hub
from trio_sse.stopping import Stopping, unattended

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def hub() -> Hub:
    return new_hub()


def clients(hub: Hub, count: int) -> list[Client]:
    return [Client(joined(hub, str(number))) for number in range(count)]


@asynccontextmanager
async def listening(stopping: Stopping) -> AsyncIterator[None]:
    """Signals of this process go to `stopping` until the end of the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(stopping.listen, BOTH)
        yield
        nursery.cancel_scope.cancel()


def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)


async def drained(stopping: Stopping) -> float:
    """How long it took, in seconds."""
    began = trio.current_time()
    await stopping.drain()
    return trio.current_time() - began


async def ten_seconds() -> None:
    await trio.sleep(10)


async def test_streams_are_ended_one_by_one_over_the_whole_time(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 10)
    began, ended = trio.current_time(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Stopping(hub, 5).drain)
        for _ in range(10):
            await wait_all_tasks_blocked()
            ended.append((trio.current_time() - began, sum(client.closed for client in there)))
            await trio.sleep(0.5)
    assert ended == [(number / 2, number + 1) for number in range(10)]
    assert {name for client in there for name in client.names} == {"draining"}


async def test_each_is_told_to_come_back_within_twice_that_time(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 40)
    await Stopping(hub, 5).drain()
    delays = {events(client.received)[0].retry or 0 for client in there}
    assert len(delays) > 20
    assert max(delays) <= 10_000


async def test_who_ends_first_is_not_who_came_first(hub: Hub, autojump_clock: MockClock) -> None:
    """Neighbours in the order of coming are often one crowd: a page that was just opened by many."""
    there = clients(hub, 100)
    order: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Stopping(hub, 100).drain)
        for _ in range(100):
            await wait_all_tasks_blocked()
            order += [number for number, client in enumerate(there) if client.closed and number not in order]
            await trio.sleep(1)
    assert sorted(order) == list(range(100))
    assert order != sorted(order)


@pytest.mark.parametrize(("seconds", "count"), [(5, 0), (0, 3)])
async def test_with_nothing_to_wait_for_it_takes_no_time(
    hub: Hub, autojump_clock: MockClock, seconds: float, count: int
) -> None:
    clients(hub, count)
    assert await drained(Stopping(hub, seconds)) == 0
    assert hub.draining


async def test_a_hub_that_was_closed_has_nothing_to_drain(hub: Hub, autojump_clock: MockClock) -> None:
    """The service failed: its streams have been ended, and a signal asks the process to end."""
    clients(hub, 3)
    hub.close()
    with trio.fail_after(10):
        assert await drained(Stopping(hub, 5)) == 0


async def test_all_who_ask_for_it_wait_for_one_and_the_same(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    stopping = Stopping(hub, 5)
    times: list[float] = []

    async def ask() -> None:
        times.append(await drained(stopping))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert times == pytest.approx([4, 4, 4])
    assert await drained(stopping) == 0
    assert [client.names for client in there] == [["draining"]] * 5


async def test_a_cancelled_drain_keeps_nobody_else_waiting(hub: Hub, autojump_clock: MockClock) -> None:
    clients(hub, 5)
    stopping = Stopping(hub, 5)
    with trio.move_on_after(1):
        await stopping.drain()
    assert await drained(stopping) == 0


async def test_those_who_leave_meanwhile_are_told_nothing(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    left = hub.connections[:3]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Stopping(hub, 5).drain)
        await wait_all_tasks_blocked()
        told = [client.names for client in there]
        for connection in left:
            hub.leave(connection)
    assert [client.names for client in there[:3]] == told[:3]
    assert [client.names for client in there[3:]] == [["draining"]] * 2


async def test_sigterm_is_a_request_and_the_streams_end_spread(hub: Hub, autojump_clock: MockClock) -> None:
    clients(hub, 5)
    stopping = Stopping(hub, 5)
    async with listening(stopping):
        assert not stopping.requested.is_set()
        signal.raise_signal(signal.SIGTERM)
        await stopping.requested.wait()
        assert await drained(stopping) == pytest.approx(4)


async def test_sigint_ends_at_once(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    stopping = Stopping(hub, 5)
    async with listening(stopping):
        signal.raise_signal(signal.SIGINT)
        await stopping.requested.wait()
        assert await drained(stopping) == 0
    assert hub.draining
    assert [client.names for client in there] == [[]] * 5  # the hub's closing ends them


@pytest.mark.parametrize("second", BOTH)
async def test_a_second_signal_ends_at_once(
    hub: Hub, autojump_clock: MockClock, second: signal.Signals
) -> None:
    clients(hub, 5)
    stopping = Stopping(hub, 5)
    async with listening(stopping), trio.open_nursery() as nursery:
        signal.raise_signal(signal.SIGTERM)
        await stopping.requested.wait()

        @nursery.start_soon
        async def draining() -> None:
            assert await drained(stopping) == pytest.approx(2.5)

        await trio.sleep(2.5)
        signal.raise_signal(second)


async def test_in_a_worker_a_second_sigterm_is_hypercorn_s_and_changes_nothing(
    hub: Hub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_worker(monkeypatch)
    clients(hub, 5)
    stopping = Stopping(hub, 5)
    async with listening(stopping):
        signal.raise_signal(signal.SIGTERM)
        await stopping.requested.wait()
        signal.raise_signal(signal.SIGTERM)
        await wait_all_tasks_blocked()
        assert await drained(stopping) == pytest.approx(4)


async def test_after_a_trigger_it_drains(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    began = trio.current_time()
    await Stopping(hub, 5).after(ten_seconds)
    assert trio.current_time() - began == pytest.approx(14)
    assert all(client.names == ["draining"] for client in there)


async def test_until_the_trigger_nothing_is_drained(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    stopping = Stopping(hub, 5)
    with trio.move_on_after(9):
        await stopping.after(ten_seconds)
    assert not hub.draining
    assert not any(client.closed for client in there)


async def test_a_signal_need_not_wait_for_the_trigger(hub: Hub, autojump_clock: MockClock) -> None:
    there = clients(hub, 5)
    stopping = Stopping(hub, 5)
    cancelled = False

    async def trigger() -> None:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled = True

    async with listening(stopping), trio.open_nursery() as nursery:
        nursery.start_soon(stopping.after, trigger)
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGTERM)
    assert cancelled
    assert all(client.names == ["draining"] for client in there)


async def test_a_trigger_that_fails_is_no_sign_to_stop(hub: Hub) -> None:
    async def trigger() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await Stopping(hub, 5).after(trigger)
    assert not hub.draining


async def test_when_nobody_listens_any_more_signals_are_what_they_were(hub: Hub) -> None:
    before = [signal.getsignal(number) for number in BOTH]
    async with listening(Stopping(hub, math.inf)):
        assert [signal.getsignal(number) for number in BOTH] != before
    assert [signal.getsignal(number) for number in BOTH] == before


def test_outside_of_a_worker_every_signal_is_somebody_s() -> None:
    assert unattended() == []


def test_in_a_worker_those_are_taken_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_worker(monkeypatch)
    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", handlers.__getitem__)
    assert unattended() == [signal.SIGTERM, signal.SIGINT]
    monkeypatch.setitem(handlers, signal.SIGTERM, signal.default_int_handler)
    assert unattended() == [signal.SIGINT]
