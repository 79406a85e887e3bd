"""Where the bytes of a connection go: to the socket itself."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from unittest import mock

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from tests.support.inside import (
    PATIENCE_SECONDS,
    PROCESS,
    batch,
    events,
    flush_now,
    joined,
    live,
    new_hub,
    note,
)
from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.notices import gap, heartbeat
from trio_sse.delivery.outlet import SocketOutlet, abort

BIG = Batch([b"x" * 1_000_000], [1])
"""More than a socket takes at once."""


@pytest.fixture
def connection() -> Connection:
    return live(3)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The service's end of a connection and the client's. Neither blocks."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


Sockets = tuple[socket.socket, socket.socket]


class Harbour:
    """Has one outlet. Its nursery ends with the stream."""

    def __init__(self, nursery: trio.Nursery, turns: trio.CapacityLimiter, timeout: float = 20) -> None:
        self.nursery = nursery
        self.turns = turns
        self.timeout = timeout

    def ended(self, outlet: SocketOutlet) -> None:
        outlet.give_back()
        self.nursery.cancel_scope.cancel()


def on_socket(
    sockets: Sockets,
    connection: Connection,
    nursery: trio.Nursery,
    *,
    chunked: bool = False,
    turns: trio.CapacityLimiter | None = None,
) -> SocketOutlet:
    owner = Harbour(nursery, turns or trio.CapacityLimiter(1))
    outlet = SocketOutlet(sockets[0].fileno(), connection, owner, chunked=chunked)
    connection.attach(outlet)
    return outlet


def arrived(far: socket.socket) -> bytes:
    """What has come to the client by now."""
    received = b""
    try:
        while data := far.recv(1 << 20):
            received += data
    except BlockingIOError:
        pass
    return received


async def arriving(far: socket.socket, count: int) -> bytes:
    received = b""
    with trio.fail_after(PATIENCE_SECONDS):
        while len(received) < count:
            await trio.lowlevel.wait_readable(far)
            received += far.recv(1 << 20)
    return received


@pytest.mark.parametrize("chunked", [True, False])
async def test_an_idle_socket_is_written_to_at_once(
    sockets: Sockets, connection: Connection, chunked: bool
) -> None:
    async with trio.open_nursery() as nursery:
        with assert_no_checkpoints():
            outlet = on_socket(sockets, connection, nursery, chunked=chunked)
            outlet.begin(b"HEAD\r\n\r\n", b"hello")
            assert outlet.take(batch(1, 2))
            hello, messages = b"hello", batch(1, 2).data
            if chunked:
                hello, messages = sse.chunk(hello), sse.chunk(messages)
            assert arrived(sockets[1]) == b"HEAD\r\n\r\n" + hello + messages


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_full_socket_holds_nobody_up_and_all_arrives_in_order(
    sockets: Sockets, connection: Connection, chunked: bool
) -> None:
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery, chunked=chunked)
        with assert_no_checkpoints():
            for item in (BIG, batch(2), batch(3)):
                connection.offer(item)
        expected = [BIG.data, batch(2, 3).data]
        everything = b"".join(map(sse.chunk, expected) if chunked else expected)
        assert await arriving(sockets[1], len(everything)) == everything
        await wait_all_tasks_blocked()
        connection.offer(batch(4))
        assert arrived(sockets[1]) == (batch(4).chunk if chunked else batch(4).data)
        assert not nursery.child_tasks


async def test_what_a_full_socket_cannot_take_is_counted_and_told(
    sockets: Sockets, connection: Connection
) -> None:
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery)
        connection.offer(BIG)
        connection.offer(batch(2, 3, 4, 5, 6))
        tail = batch(2, 3, 4).data + gap("slow_client", 2, id=f"{PROCESS}.6", replay_after=f"{PROCESS}.4")
        assert (await arriving(sockets[1], len(BIG.data + tail))).endswith(b"x" + tail)


async def test_a_socket_that_has_room_again_is_used_before_its_task_had_a_turn(
    sockets: Sockets, connection: Connection
) -> None:
    half = Batch([b"x" * 300_000], [1])
    async with trio.open_nursery() as nursery:
        outlet = on_socket(sockets, connection, nursery)
        connection.offer(half)
        connection.offer(batch(2))
        received = b""
        with assert_no_checkpoints():
            while not outlet.take(batch(3)):
                received += arrived(sockets[1])
            received += arrived(sockets[1])
        assert received == half.data + batch(2, 3).data
        await wait_all_tasks_blocked()
        connection.offer(batch(4))
        assert arrived(sockets[1]) == batch(4).data
        nursery.cancel_scope.cancel()


def to_replay(count: int) -> tuple[Hub, Connection, list[str]]:
    """A connection that has so many messages to catch up with, of which a page holds six."""
    hub = new_hub()
    texts = [str(number).zfill(10_000) for number in range(count)]
    for text in texts:
        hub.dispatch(note("1", data=text.encode()))
    hub.take()
    return hub, joined(hub, capacity=1, after=0), texts


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_replay_leaves_as_quickly_as_the_socket_takes_it_and_then_the_client_is_live(
    sockets: Sockets, chunked: bool
) -> None:
    hub, connection, texts = to_replay(100)
    received = b""
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery, chunked=chunked)
        with trio.fail_after(PATIENCE_SECONDS):
            while connection.catching_up or nursery.child_tasks:
                await wait_all_tasks_blocked()
                received += arrived(sockets[1])
        hub.dispatch(note("1", data=b"new"))
        with assert_no_checkpoints():
            flush_now(hub)
            received += arrived(sockets[1])
        hub.close()
    received += arrived(sockets[1])
    body = _unchunked(received) if chunked else received
    assert [event.data for event in events(body)] == [*texts, "new"]


async def test_pages_of_replays_wait_for_their_turn_and_live_messages_do_not(sockets: Sockets) -> None:
    hub, connection, texts = to_replay(20)
    turns = trio.CapacityLimiter(1)
    turns.acquire_on_behalf_of_nowait("another replay")
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        async with trio.open_nursery() as nursery:
            listening = joined(hub)
            listening.take_waiting()
            on_socket((near, far), listening, nursery, turns=turns)
            on_socket(sockets, connection, nursery, turns=turns)
            hub.dispatch(note("1", data=b"new"))
            flush_now(hub)
            await wait_all_tasks_blocked()
            assert arrived(sockets[1]) == b""
            assert [event.data for event in events(arrived(far))] == ["new"]
            turns.release_on_behalf_of("another replay")
            received = b""
            while connection.catching_up:
                await wait_all_tasks_blocked()
                received += arrived(sockets[1])
            hub.close()
    assert [event.data for event in events(received)] == [*texts, "new"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_closing_an_idle_socket_ends_the_body_and_the_stream(
    sockets: Sockets, connection: Connection, chunked: bool
) -> None:
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery, chunked=chunked)
        connection.close()
        await trio.sleep_forever()
    assert arrived(sockets[1]) == (sse.LAST_CHUNK if chunked else b"")


async def test_closing_a_full_socket_waits_for_what_was_taken(
    sockets: Sockets, connection: Connection
) -> None:
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery, chunked=True)
        connection.offer(BIG)
        connection.offer(batch(2))
        connection.close()
        everything = BIG.chunk + batch(2).chunk + sse.LAST_CHUNK
        assert await arriving(sockets[1], len(everything)) == everything
        await trio.sleep_forever()


async def test_a_client_that_takes_nothing_for_the_timeout_is_cut_off(
    sockets: Sockets, connection: Connection, mock_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        outlet = on_socket(sockets, connection, nursery, chunked=True)
        connection.offer(BIG)
        await wait_all_tasks_blocked()
        mock_clock.jump(19)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        assert outlet.behind > 0
        assert not outlet.timed_out
        mock_clock.jump(2)
        await trio.sleep_forever()
    assert outlet.timed_out
    assert outlet.behind == 0
    received = arrived(sockets[1])  # up to the end of the stream, or this would be a BlockingIOError
    assert 0 < len(received) < len(BIG.chunk)
    assert sockets[1].recv(1) == b""


async def test_a_client_that_takes_a_little_in_time_is_not_cut_off(
    sockets: Sockets, connection: Connection, mock_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery)
        connection.offer(BIG)
        received = 0
        while received < len(BIG.data):
            await wait_all_tasks_blocked()
            mock_clock.jump(19)
            received += len(arrived(sockets[1]))
        assert received == len(BIG.data)


async def test_a_client_that_takes_it_from_other_hands_is_not_cut_off(
    sockets: Sockets, connection: Connection, mock_clock: MockClock
) -> None:
    """New messages take the room before the task that waits for it has had its turn."""
    rounds = 0
    async with trio.open_nursery() as nursery:
        outlet = on_socket(sockets, connection, nursery)
        connection.offer(BIG)
        with mock.patch("trio.lowlevel.wait_writable", _never):
            for _ in range(5):
                await wait_all_tasks_blocked()
                mock_clock.jump(19)
                assert sockets[1].recv(150_000)
                outlet.take(batch(2))
                rounds += 1
            await wait_all_tasks_blocked()
            mock_clock.jump(21)
            await trio.sleep_forever()  # until it is cut off
    assert rounds == 5


async def _never(_: int) -> None:
    await trio.sleep_forever()


async def test_from_the_end_of_its_stream_on_a_client_has_the_timeout_for_all_that_is_left(
    sockets: Sockets, connection: Connection, mock_clock: MockClock
) -> None:
    """However it takes it: one that takes a byte now and then could stay for ever."""
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery, chunked=True)
        connection.offer(BIG)
        connection.end(b"data: bye\n\n")
        for _ in range(3):
            await wait_all_tasks_blocked()
            assert nursery.child_tasks
            mock_clock.jump(6)
            assert sockets[1].recv(200_000)
        await wait_all_tasks_blocked()
        mock_clock.jump(3)
        await trio.sleep_forever()
    received = arrived(sockets[1])
    assert b"bye" not in received
    assert sockets[1].recv(1) == b""


async def test_a_broken_socket_ends_the_stream(sockets: Sockets, connection: Connection) -> None:
    sockets[1].close()
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery)
        connection.offer(batch(1))
        await trio.sleep_forever()


@pytest.mark.parametrize("when", ["on its way out", "closed"])
async def test_in_a_nursery_that_was_cancelled_no_task_is_started(
    sockets: Sockets, connection: Connection, when: str
) -> None:
    """A batch may be offered before the connection's own task has had its turn to leave the hub."""
    async with trio.open_nursery() as nursery:
        on_socket(sockets, connection, nursery)
        nursery.cancel_scope.cancel()
        if when == "on its way out":
            connection.offer(BIG)
            assert not nursery.child_tasks
    connection.offer(BIG)
    connection.close()
    assert 0 < len(arrived(sockets[1])) < 2 * len(BIG.data)


def test_aborting_ends_both_directions_and_leaves_the_descriptor_open(sockets: Sockets) -> None:
    abort(sockets[0].fileno())
    assert sockets[1].recv(1) == b""
    os.fstat(sockets[0].fileno())


def test_aborting_what_is_closed_already_is_harmless(sockets: Sockets) -> None:
    fd = sockets[0].fileno()
    sockets[0].close()
    abort(fd)


# A socket that takes whatever number of bytes it likes, and steps of a stream's life: messages gather and are
# offered, a heartbeat is due, or the task that waits for the socket has its turn.
APPETITE = st.lists(st.integers(0, 90), max_size=60)
STEPS = st.lists(st.one_of(st.integers(1, 7), st.sampled_from(["turn", "beat"])), max_size=30)


@given(APPETITE, STEPS, st.booleans())
async def test_bytes_stay_whole_and_in_order_whatever_the_socket_takes(
    appetite: list[int], steps: list[int | str], chunked: bool
) -> None:
    written = bytearray()

    def write(_: int, data: bytes) -> int:
        room = appetite.pop() if appetite else len(data)
        if not room and len(data):
            raise BlockingIOError
        written.extend(data[:room])
        return min(room, len(data))

    published = 0
    with (
        mock.patch("trio_sse.delivery.outlet.os.write", write),
        mock.patch("trio_sse.delivery.outlet._write_last", write),
        mock.patch("trio.lowlevel.wait_writable", _turn),
    ):
        async with trio.open_nursery() as nursery:
            connection = live(3)
            owner = Harbour(nursery, trio.CapacityLimiter(1), 1e9)
            outlet = SocketOutlet(0, connection, owner, chunked=chunked)
            outlet.begin(b"", b": hello\n\n")
            connection.attach(outlet)
            for step in steps:
                if step == "turn":
                    await trio.lowlevel.checkpoint()
                elif step == "beat":
                    connection.tell("heartbeat", Batch.notice(heartbeat()))
                elif isinstance(step, int):
                    connection.offer(batch(*range(published + 1, published + step + 1)))
                    published += step
            appetite.clear()
            connection.close()
            with trio.fail_after(PATIENCE_SECONDS):
                await trio.sleep_forever()  # until the end of the stream cancels the nursery
    expected = 1
    for event in events(_unchunked(bytes(written)) if chunked else bytes(written)):
        if event.event == "gap":
            expected += json.loads(event.data)["dropped"]
        elif event.event != "heartbeat":
            assert int(event.data) == expected
            expected += 1
    assert expected - 1 == published


async def _turn(_: int) -> None:
    await trio.lowlevel.checkpoint()


def _unchunked(data: bytes) -> bytes:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    parser.next_event()
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return body
