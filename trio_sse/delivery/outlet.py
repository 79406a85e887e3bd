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
from trio_sse.sockets import is_unacknowledged, unacknowledged


class Backlog(Protocol):
    """What waits for an outlet that was busy. A Connection is one."""

    @property
    def catching_up(self) -> bool:
        """Whether `take_waiting` gives a replay, a page at a time."""
        ...

    def take_waiting(self) -> bytes:
        """What waits, in order, or b"" when nothing does."""
        ...

    def caught_up(self) -> None:
        """All that waited was written."""
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


class Owner(Protocol):
    """Has socket outlets, and what they share."""

    nursery: trio.Nursery
    """The tasks of outlets run here."""
    turns: trio.CapacityLimiter
    """Each page of a replay takes one, so that many replays at once leave time for other tasks."""
    timeout: float
    """Seconds after which a client that takes nothing is cut off."""

    def ended(self, outlet: SocketOutlet) -> None:
        """The stream is over. Called once or more, within any method of the outlet but its making."""
        ...


class SocketOutlet:
    """Writes the body of an HTTP/1 response straight to the socket, without waiting.

    A task in the owner's nursery writes what the socket does not take at once. It exists only while there is
    such a rest, or a replay. A client that takes nothing for the owner's timeout is cut off, and so is one
    that has not taken all so long after the end of its stream. If a client cannot be reached, the kernel ends
    the connection (see sockets.KeepAlive). At the end of the stream the owner is told, and closes the socket.
    """

    __slots__ = ("_chunked", "_deadline", "_draining", "_moved", "_owner", "_rest", "backlog", "fd")

    def __init__(self, fd: int, backlog: Backlog, owner: Owner, *, chunked: bool) -> None:
        self.fd = fd
        """Negative when it was given back."""
        self.backlog = backlog
        self._owner = owner
        self._chunked = chunked
        self._deadline = math.inf  # finite from the end of the stream on
        self._draining: trio.CancelScope | None = None
        self._rest = _NOTHING
        self._moved = 0.0  # when the socket last took something, while there is a rest

    def begin(self, head: bytes, body: bytes) -> None:
        """Write the head of the response and the first bytes of its body, if there are any yet."""
        self._write(head + sse.chunk(body) if body and self._chunked else head + body)

    @property
    def behind(self) -> int:
        """Bytes that were taken and that the client has not acknowledged."""
        return len(self._rest) + (unacknowledged(self.fd) if self.fd >= 0 else 0)

    @property
    def timed_out(self) -> bool:
        """Whether the client was cut off because it took nothing."""
        return self._deadline == _TIMED_OUT

    def give_back(self) -> int:
        """Write nothing from now on, and end the task. Returns the descriptor for the caller to close;
        negative when it was given back before."""
        fd, self.fd = self.fd, _GIVEN_BACK
        self._rest = _NOTHING
        if self._draining is not None:
            self._draining.cancel()
        return fd

    def take(self, batch: Batch) -> bool:
        # The socket may take more by now, though the task that waits for it has not run yet.
        if self._rest and not self._push():
            return False
        self._write(batch.chunk if self._chunked else batch.data)
        return True

    def pull(self) -> None:
        # A cancelled nursery gets no new task.
        nursery = self._owner.nursery
        if self._draining is None and self.fd >= 0 and not nursery.cancel_scope.cancel_called:
            self._draining = trio.CancelScope()
            nursery.start_soon(self._drain, self._draining)

    def close(self) -> None:
        if self.fd >= 0:
            self._deadline = trio.current_time() + self._owner.timeout
            if self._draining is None:
                self._end()

    def _write(self, data: bytes) -> None:
        sent = self._write_some(data)
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self._moved = trio.current_time()
            self.pull()

    def _write_some(self, data: bytes | memoryview) -> int:
        """Write, and return how much the socket took. A broken one counts as having taken all, and the
        stream ends."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._owner.ended(self)
            return len(data)

    def _push(self) -> bool:
        """Write the rest, then what waits, but only one page of a replay. Returns whether all of it left."""
        paged = False
        while True:
            if self._rest and (sent := self._write_some(self._rest)):
                self._rest = self._rest[sent:]
                self._moved = trio.current_time()
            if self._rest or (paged and self.backlog.catching_up):
                return False
            waiting = self.backlog.take_waiting()
            if not waiting:
                return True
            self._rest = memoryview(self._framed(waiting))
            paged = True

    async def _drain(self, scope: trio.CancelScope) -> None:
        done = False
        with scope:
            while not done and self.fd >= 0:
                if self._rest and not await self._writable():
                    return
                if self.backlog.catching_up:
                    async with self._owner.turns:
                        done = self._push()
                else:
                    done = self._push()
        self._draining = None
        if self.fd >= 0 and not scope.cancel_called:
            self.backlog.caught_up()
            if self._deadline < math.inf:
                self._end()

    async def _writable(self) -> bool:
        """Wait until the socket takes more. False: it did not in time, and the stream has ended."""
        timeout, began = self._owner.timeout, trio.current_time()
        while True:
            # New messages are written as soon as there is room, so a slow but steady client may leave none
            # for as long as this waits.
            until = max(began, self._moved) + timeout
            with trio.move_on_at(min(until, self._deadline)):
                await trio.lowlevel.wait_writable(self.fd)
                return True
            now = trio.current_time()
            if now < self._deadline:
                if now < self._moved + timeout:
                    continue
                if is_unacknowledged(self.fd):
                    began = now
                    continue
            self._deadline = _TIMED_OUT
            abort(self.fd)
            self._owner.ended(self)
            return False

    def _framed(self, data: bytes) -> bytes:
        """`data` as the socket gets it."""
        return sse.chunk(data) if self._chunked else data

    def _last_words(self) -> bytes:
        """What the socket gets after the body."""
        return sse.LAST_CHUNK if self._chunked else b""

    def _end(self) -> None:
        _write_last(self.fd, self._last_words())
        self._owner.ended(self)


_NOTHING = memoryview(b"")
_GIVEN_BACK = -1
_TIMED_OUT = -math.inf


def _write_last(fd: int, data: bytes) -> None:
    """Write what leaves with the end of the connection, in one packet: the owner is about to close it."""
    if not data:
        return
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)  # as good for any other family
    try:
        sock.send(data, socket.MSG_MORE)
    except OSError:
        pass
    finally:
        sock.detach()


def abort(fd: int) -> None:
    """Shut down the socket `fd` in both directions, even while tasks wait for it. The caller still closes
    it."""
    with contextlib.suppress(OSError):
        sock = socket.socket(fileno=fd)  # no duplicate: there may be no further descriptor
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()
