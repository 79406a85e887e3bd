"""Where the bytes of a connection go."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Protocol

import trio

from trio_sse import wire
from trio_sse.batch import Batch


class Backlog(Protocol):
    """What waits behind an outlet that was busy. A Connection is one."""

    def take_waiting(self) -> bytes:
        """Everything that waits, in order, or b"" when nothing does."""
        ...


class Outlet(Protocol):
    """A way out that either takes a batch whole, at once, or refuses it whole."""

    def take(self, batch: Batch) -> bool:
        """Take all of `batch` now, or nothing of it because earlier bytes are still on their way.

        Never waits. Bytes leave in the order they were taken.
        """
        ...

    def close(self) -> None:
        """End the stream once what was taken has left. Nothing more is taken."""
        ...


class AsgiOutlet:
    """Hands bytes to whoever awaits them and passes them to an ASGI `send` (Quart does).

    While that task waits here everything taken reaches it whole; while it is inside `send` the outlet
    refuses, and the connection's memory channel fills instead.
    """

    def __init__(
        self, channel: trio.MemorySendChannel[bytes], waiting: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        self._channel = channel
        self._waiting = waiting
        self._parked = False

    def take(self, batch: Batch) -> bool:
        if not self._parked:
            return False
        self._parked = False
        self._channel.send_nowait(batch.data)  # straight to the waiting task: no slot is used
        return True

    def close(self) -> None:
        self._parked = False

    async def wait(self) -> bytes:
        """The next bytes. Raises trio.EndOfChannel when the connection was closed."""
        self._parked = True
        try:
            return await self._waiting.receive()
        finally:
            self._parked = False


class SocketOutlet:
    """Writes to the socket itself, without waiting, as the body of an HTTP/1 response.

    What the socket does not take at once is written by a task of its own in `nursery`, which exists only
    while there is such a rest. A client that takes nothing for `timeout` seconds is cut off. The end of
    the stream cancels `nursery`.
    """

    __slots__ = ("_backlog", "_chunked", "_closing", "_draining", "_fd", "_nursery", "_rest", "_timeout")

    def __init__(
        self, fd: int, backlog: Backlog, nursery: trio.Nursery, *, chunked: bool, timeout: float
    ) -> None:
        self._fd = fd
        self._backlog = backlog
        self._nursery = nursery
        self._chunked = chunked
        self._timeout = timeout
        self._closing = False
        self._draining = False
        self._rest = _NOTHING

    def begin(self, head: bytes, body: bytes) -> None:
        """Write the head of the response and the first bytes of its body."""
        self._write(head + wire.chunk(body) if self._chunked else head + body)

    def take(self, batch: Batch) -> bool:
        # The socket may take more by now, though the task that waits for it had no turn yet.
        if self._rest and not self._push():
            return False
        self._write(batch.chunk if self._chunked else batch.data)
        return True

    def close(self) -> None:
        self._closing = True
        if not self._draining:
            self._end()

    def _write(self, data: bytes) -> None:
        sent = self._write_some(data)
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            if not self._draining:
                self._draining = True
                self._nursery.start_soon(self._drain)

    def _write_some(self, data: bytes | memoryview) -> int:
        """How much the socket took. A broken one takes everything, and the connection ends."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._nursery.cancel_scope.cancel()
            return len(data)

    def _push(self) -> bool:
        """Write the rest, and what waits behind it. Returns whether all of it left."""
        while True:
            self._rest = self._rest[self._write_some(self._rest) :]
            if self._rest:
                return False
            waiting = self._backlog.take_waiting()
            if not waiting:
                return True
            self._rest = memoryview(wire.chunk(waiting) if self._chunked else waiting)

    async def _drain(self) -> None:
        while True:
            with trio.move_on_after(self._timeout) as patience:
                await trio.lowlevel.wait_writable(self._fd)
            if patience.cancelled_caught:
                abort(self._fd)
                self._nursery.cancel_scope.cancel()
                return
            if self._push():
                break
        self._draining = False
        if self._closing:
            self._end()

    def _end(self) -> None:
        if self._chunked:
            self._write_some(wire.LAST_CHUNK)
        self._nursery.cancel_scope.cancel()


_NOTHING = memoryview(b"")


def abort(fd: int) -> None:
    """End the connection of `fd` in both directions, whoever waits for it. The caller still closes it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)
