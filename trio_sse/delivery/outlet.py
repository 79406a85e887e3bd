"""Where the bytes of a connection go."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from typing import Protocol

import trio

from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.sockets import is_unacknowledged


class Backlog(Protocol):
    """What waits for an outlet that was busy. A Connection is one."""

    @property
    def catching_up(self) -> bool:
        """Whether `take_waiting` gives a replay, a page at a time."""
        ...

    def take_waiting(self) -> bytes:
        """What waits, in order, or b"" when nothing does."""
        ...


class Outlet(Protocol):
    """Sends the bytes of a connection. It takes a whole batch at once, or refuses it."""

    def take(self, batch: Batch) -> bool:
        """Take all of `batch` now, or nothing of it because earlier bytes still wait.

        Never waits. Bytes leave in the order they were taken.
        """
        ...

    def pull(self) -> None:
        """Something waits. Take it as soon as earlier bytes have left."""
        ...

    def close(self) -> None:
        """End the stream once what was taken and what waits has left. Nothing more is taken."""
        ...


class SocketOutlet:
    """Writes the body of an HTTP/1 response straight to the socket, without waiting.

    A task in `nursery` writes what the socket does not take at once. It exists only while there is such a
    rest, or a replay. A client that takes nothing for `timeout` seconds is cut off, and so is one that has
    not taken all so long after the end of its stream. If a client cannot be reached, the kernel ends the
    connection (see sockets.KeepAlive). The end of the stream cancels `nursery`. Each page of a replay takes
    one of `turns`, which all connections share, so that many replays at once leave time for other tasks.
    """

    __slots__ = (
        "_backlog",
        "_chunked",
        "_closing",
        "_deadline",
        "_draining",
        "_fd",
        "_nursery",
        "_rest",
        "_timeout",
        "_turns",
    )

    def __init__(
        self,
        fd: int,
        backlog: Backlog,
        nursery: trio.Nursery,
        turns: trio.CapacityLimiter,
        *,
        chunked: bool,
        timeout: float,
    ) -> None:
        self._fd = fd
        self._backlog = backlog
        self._nursery = nursery
        self._turns = turns
        self._chunked = chunked
        self._timeout = timeout
        self._deadline = math.inf
        self._closing = False
        self._draining = False
        self._rest = _NOTHING

    def begin(self, head: bytes, body: bytes) -> None:
        """Write the head of the response and the first bytes of its body, if there are any yet."""
        self._write(head + sse.chunk(body) if body and self._chunked else head + body)

    def take(self, batch: Batch) -> bool:
        # The socket may take more by now, though the task that waits for it has not run yet.
        if self._rest and not self._push():
            return False
        self._write(batch.chunk if self._chunked else batch.data)
        return True

    def pull(self) -> None:
        # A cancelled nursery gets no new task.
        if not self._draining and not self._nursery.cancel_scope.cancel_called:
            self._draining = True
            self._nursery.start_soon(self._drain)

    def close(self) -> None:
        self._closing = True
        self._deadline = trio.current_time() + self._timeout
        if not self._draining:
            self._end()

    def _write(self, data: bytes) -> None:
        sent = self._write_some(data)
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self.pull()

    def _write_some(self, data: bytes | memoryview) -> int:
        """Write, and return how much the socket took. A broken one counts as having taken all, and the
        connection ends."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._nursery.cancel_scope.cancel()
            return len(data)

    def _push(self) -> bool:
        """Write the rest, then what waits, but only one page of a replay. Returns whether all of it left."""
        paged = False
        while True:
            if self._rest:
                self._rest = self._rest[self._write_some(self._rest) :]
            if self._rest or (paged and self._backlog.catching_up):
                return False
            waiting = self._backlog.take_waiting()
            if not waiting:
                return True
            self._rest = memoryview(sse.chunk(waiting) if self._chunked else waiting)
            paged = True

    async def _drain(self) -> None:
        done = False
        while not done:
            if self._rest:
                until = min(trio.current_time() + self._timeout, self._deadline)
                with trio.move_on_at(until) as patience:
                    await trio.lowlevel.wait_writable(self._fd)
                if patience.cancelled_caught:
                    if trio.current_time() < self._deadline and is_unacknowledged(self._fd):
                        continue
                    abort(self._fd)
                    self._nursery.cancel_scope.cancel()
                    return
            if self._backlog.catching_up:
                async with self._turns:
                    done = self._push()
            else:
                done = self._push()
        self._draining = False
        if self._closing:
            self._end()

    def _end(self) -> None:
        if self._chunked:
            self._write_some(sse.LAST_CHUNK)
        self._nursery.cancel_scope.cancel()


_NOTHING = memoryview(b"")


def abort(fd: int) -> None:
    """Shut down the socket `fd` in both directions, even while tasks wait for it. The caller still closes
    it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        sock.shutdown(socket.SHUT_RDWR)
