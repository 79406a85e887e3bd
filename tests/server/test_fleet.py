"""Streams on their own sockets, without a task each."""

from __future__ import annotations

import contextlib
import gc
import socket
from itertools import count
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.fleets import BIG, LIMITED, files, left_behind
from tests.support.inside import (
    events,
    fleet_of,
    flush_now,
    note,
    read,
    request_stream,
    settings,
    stream_pair,
    until,
)
from trio_sse.access.admission import Accepted
from trio_sse.delivery import sse
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.resume import Start
from trio_sse.server.fleet import MAX_IGNORED, Opening, Stream
from trio_sse.server.poller import Poller
from trio_sse.service import Service


@pytest.fixture
def service() -> Service:
    return Service(settings(**LIMITED))


async def test_it_says_connected_and_then_what_is_published(service: Service) -> None:
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        assert await request_stream(fleet, service, near, version="1.0")
        head, _, body = (await read(far, b"}\n\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert [event.event for event in events(body)] == ["connected"]
        service.hub.dispatch(note("ann", data=b"hello"))
        flush_now(service.hub)
        assert b"data: hello\n\n" in await read(far, b"\n\n")


@pytest.mark.parametrize("how", ["eof", "reset", "cancel", "hub", "cut"])
async def test_however_it_ends_nothing_is_left_of_it(service: Service, how: str) -> None:
    before = files()
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        assert await request_stream(fleet, service, near)
        await read(far, b"}\n\n")
        assert (len(fleet), service.hub.users) == (1, ["ann"])
        if how == "eof":
            await far.send_eof()
        elif how == "reset":
            service.hub.announce_gap("restarted")
            await far.aclose()  # with bytes it has not read: the service's end sees ECONNRESET
        elif how == "cancel":
            fleet.nursery.cancel_scope.cancel()
        elif how == "hub":
            service.hub.close()
        else:
            fleet.close()
        await fleet.all_left.wait()
    assert left_behind(service) == []
    assert files() == before


async def test_while_it_is_idle_it_has_no_task_and_no_channel(service: Service) -> None:
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        await request_stream(fleet, service, near)
        (connection,) = service.hub.connections
        assert (fleet.nursery.child_tasks, connection._channel) == (frozenset(), None)
        service.hub.dispatch(note("ann", data=BIG))
        flush_now(service.hub)
        service.hub.dispatch(note("ann", data=b"waits"))
        flush_now(service.hub)
        assert len(fleet.nursery.child_tasks) == 1
        assert connection.open_channel()[1].statistics().current_buffer_used == 1
        assert connection.open_channel()[1].statistics().max_buffer_size == service.settings.buffer
        await read(far, b"data: waits\n\n")
        await wait_all_tasks_blocked()
        assert (fleet.nursery.child_tasks, connection._channel) == (frozenset(), None)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize(
    "where",
    [
        (Connection, "__init__"),
        (Connection, "attach"),
        (Connection, "take_waiting"),
        (Poller, "watch"),
        ("hub", "join"),
        ("resumer", "begin"),
        ("lifetimes", "add"),
    ],
    ids=lambda where: str(where[1]),
)
async def test_an_error_while_it_opens_leaves_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    owner, name = where
    before = files()
    async with fleet_of(service) as fleet:
        near, far = socket.socketpair()
        with far, monkeypatch.context() as broken:

            def fail(*_: Any, **__: Any) -> None:
                raise BrokenError

            broken.setattr(getattr(service, owner) if isinstance(owner, str) else owner, name, fail)
            with pytest.raises(BrokenError):
                fleet.open(near.detach(), Opening(Accepted("ann", Start(), ()), b"HEAD", chunked=True))
        assert len(fleet) == 0
        assert left_behind(service) == []
        async with stream_pair() as (another, far_off):
            assert await request_stream(fleet, service, another)
            assert b"connected" in await read(far_off, b"}\n\n")
    assert files() == before


async def test_a_client_that_is_gone_before_it_was_answered_leaves_nothing(service: Service) -> None:
    """Without the collector, which the service keeps calm."""
    gc.collect()
    gc.disable()
    try:
        async with fleet_of(service) as fleet:
            near, far = socket.socketpair()
            far.close()
            fleet.open(near.detach(), Opening(Accepted("ann", Start(), ()), b"HEAD", chunked=True))
            assert len(fleet) == 0
            assert left_behind(service) == []
            assert [thing for thing in gc.get_objects() if isinstance(thing, Stream)] == []
    finally:
        gc.enable()


class OfferAtStep(trio.abc.Instrument):
    """Publishes more than a socket takes at once, before the n-th step of any task, and flushes it."""

    def __init__(self, service: Service, step: int) -> None:
        self.service = service
        self.left = step
        self.offered_to: list[str] = []
        self.error: BaseException | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.offered_to = self.service.hub.users
            self.service.hub.dispatch(note("ann", data=BIG))
            try:
                flush_now(self.service.hub)
            except RuntimeError as error:
                self.error = error


@pytest.mark.parametrize("how", ["eof", "reset", "hub", "cancel"])
@pytest.mark.parametrize("busy", [False, True])
async def test_a_batch_may_be_offered_at_any_step_of_its_end(how: str, busy: bool) -> None:
    """Partly written it needs a task for the rest, for which it may be too late."""
    offered = []
    for step in count(1):
        service = Service(settings())
        instrument = OfferAtStep(service, step)
        async with stream_pair() as (near, far), fleet_of(service) as fleet:
            await request_stream(fleet, service, near)
            await read(far, b"}\n\n")
            if busy:
                service.hub.dispatch(note("ann", data=BIG))
                flush_now(service.hub)
            trio.lowlevel.add_instrument(instrument)
            if how == "hub":
                service.hub.close()
                if busy:
                    await far.aclose()
            elif how == "cancel":
                fleet.nursery.cancel_scope.cancel()
            else:
                await (far.send_eof if how == "eof" else far.aclose)()
            with trio.fail_after(5):
                while service.hub.users:
                    await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(instrument)
        assert instrument.error is None
        assert left_behind(service) == []
        offered.append(instrument.offered_to)
        if not offered[-1]:
            break
    assert offered[0] == ["ann"] or how == "hub"


@pytest.mark.parametrize("state", ["live", "catching up", "waits for the log"])
async def test_cancelled_at_any_step_nothing_is_left(state: str) -> None:
    """Whatever a client that does not read is owed."""
    for steps in range(8):
        values = {"redis_stream": "notes"} if state == "waits for the log" else {}
        service = Service(settings(**LIMITED, **values))
        for _ in range(5):
            service.hub.dispatch(note("ann", data=BIG))
        last_id = {
            "live": "",
            "catching up": f"&last_event_id={service.history.sources.process}.0",
            "waits for the log": "&last_event_id=5-0",
        }[state]
        async with stream_pair() as (near, _far), fleet_of(service) as fleet:
            await request_stream(fleet, service, near, f"/sse?user_id=ann{last_id}")
            service.hub.dispatch(note("ann", data=BIG))
            flush_now(service.hub)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            fleet.nursery.cancel_scope.cancel()
        assert len(fleet) == 0
        assert left_behind(service) == []


async def test_what_a_client_sends_after_its_request_is_ignored_up_to_a_bound(service: Service) -> None:
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        await request_stream(fleet, service, near)
        await far.send_all(b"x" * 1000)
        await wait_all_tasks_blocked()
        assert len(service.hub) == 1
        await far.send_all(b"x" * MAX_IGNORED)
        await until(lambda: len(service.hub) == 0)


async def test_it_ends_the_body_for_clients_that_get_chunks(service: Service) -> None:
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        await request_stream(fleet, service, near)
        await read(far, b"}\n\n\r\n")
        service.hub.close()
        assert await read(far) == sse.LAST_CHUNK
        assert len(fleet) == 0


async def test_a_stream_on_a_hub_that_was_closed_says_when_to_come_back_and_ends(service: Service) -> None:
    service.hub.close()
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        await request_stream(fleet, service, near)
        assert len(fleet) == 0
        assert b"event: draining" in await read(far)


# What a crowd does, one step after the other: a client comes, leaves, resets, is sent much, or reads.
STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "reset", "publish", "read", "turn"]), st.integers(0, 20)),
    max_size=40,
)


@given(STEPS)
async def test_whatever_a_crowd_does_the_books_are_right(steps: list[tuple[str, int]]) -> None:
    service = Service(settings(max_connections=1000, buffer=2))
    before = files()
    here: list[socket.socket] = []
    async with fleet_of(service) as fleet:
        for what, number in steps:
            if what == "come":
                near, far = socket.socketpair()
                near.setblocking(False)
                far.setblocking(False)
                user = f"u{number % 3}"
                fleet.open(near.detach(), Opening(Accepted(user, Start(), ()), b"HEAD", chunked=True))
                here.append(far)
            elif what == "publish":
                service.hub.dispatch(note(f"u{number % 3}", data=b"x" * 40_000 * (number % 7)))
                flush_now(service.hub)
            elif what == "turn":
                await trio.lowlevel.checkpoint()
            elif here:
                client = here[number % len(here)]
                if what == "read":
                    _read_some(client)
                else:
                    if what == "leave":
                        _read_some(client)
                    client.close()
                    here.remove(client)
        await wait_all_tasks_blocked()
        assert len(fleet) == len(service.hub) == len(service.admission.limits._counted) == len(here)
        assert files() >= before + 2 * len(here)
    assert len(fleet) == 0
    assert left_behind(service) == []
    for client in here:
        client.close()
    assert files() == before


def _read_some(client: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        client.recv(1 << 20)
