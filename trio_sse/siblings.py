"""The workers of one service: each tells the others, at a Unix socket, what it counts.

The sockets are abstract (unix(7)): they end with their processes and leave nothing behind. Their names have
the main process in them, which all workers have in common, whichever command started it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
from collections.abc import Callable, Container, Iterator
from functools import partial, reduce
from pathlib import Path

import msgspec
import structlog
import trio

log = structlog.stdlib.get_logger("trio_sse.siblings")

MOST = 256
"""How many workers find each other."""

ANSWER_SECONDS = 1.0
"""A worker that has not answered after so long is left out."""

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What is counted in one worker, or in several."""

    connections: int
    users: frozenset[str]
    totals: dict[str, int]
    workers: int = 1

    def with_those_of(self, other: Counts, same: Container[str]) -> Counts:
        """The counts of both. `same` has the names of totals that each worker counts for all of them."""
        totals = {}
        for name, total in self.totals.items():
            more = other.totals.get(name, 0)
            totals[name] = max(total, more) if name in same else total + more
        return Counts(
            self.connections + other.connections,
            self.users | other.users,
            totals,
            self.workers + other.workers,
        )


_decode = msgspec.msgpack.Decoder(Counts).decode


class Siblings:
    """The other workers of this service. `own` counts what is in this one; `same` has the names of totals
    that each worker counts for all of them."""

    def __init__(self, own: Callable[[], Counts], same: Container[str] = ()) -> None:
        self._own = own
        self._same = same
        self._name = ""
        self._turn = trio.Lock()
        self._asked = -1.0
        self._all: Counts | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer the others, until cancelled. Returns at once in a process that is no worker."""
        with contextlib.ExitStack() as stack:
            listener = None
            if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
                try:
                    self._name, sock = _first_free(parent.pid)
                except OSError as error:
                    log.warning("/readyz has the counts of one worker alone", error=str(error))
                else:
                    stack.enter_context(sock)
                    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            task_status.started()
            if listener is not None:
                await trio.serve_listeners(self._answer, [listener])

    async def counts(self) -> Counts:
        """The counts of all workers that answer. Who asks at a time shares one answer, none of which is older
        than the question."""
        if not self._name:
            return self._own()
        asked = trio.current_time()
        async with self._turn:
            if self._all is None or self._asked < asked:
                self._asked = trio.current_time()
                self._all = await self._ask_all()
            return self._all

    async def _answer(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(ANSWER_SECONDS), contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                if _is_ours(stream.socket):
                    await stream.send_all(msgspec.msgpack.encode(self._own()))

    async def _ask_all(self) -> Counts:
        found: list[Counts] = []

        async def ask(sock: socket.socket) -> None:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                with contextlib.suppress(trio.BrokenResourceError, msgspec.MsgspecError):
                    parts = [part async for part in stream]
                    found.append(_decode(b"".join(parts)))

        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for sock in self._connected():
                    nursery.start_soon(ask, sock)
        return reduce(partial(Counts.with_those_of, same=self._same), found, self._own())

    def _connected(self) -> Iterator[socket.socket]:
        """A connection to each of the others."""
        family = self._name.rpartition("/")[0]
        for name in _names(family):
            if name != self._name:
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                try:
                    sock.connect(name)
                    ours = _is_ours(sock)
                except OSError:  # nobody is there, or one that is too busy
                    ours = False
                if ours:
                    yield sock
                else:
                    sock.close()


def _first_free(parent: int) -> tuple[str, socket.socket]:
    """A name that no living process has, and the socket that listens there. Raises OSError."""
    family = f"\0trio_sse/{os.geteuid()}/{_started(parent)}"
    error = OSError("no name is free")
    for name in _names(family):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.bind(name)
            sock.listen(MOST)
        except OSError as taken:
            sock.close()
            error = taken
        else:
            return name, sock
    raise error


def _names(family: str) -> Iterator[str]:
    return (f"{family}/{number}" for number in range(MOST))


def _started(pid: int) -> str:
    """A name for a process that no other has, now or later: ids are given again, and containers that share a
    network have each their own."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{fields[19]}"
    except (OSError, IndexError):
        return str(pid)


def _is_ours(sock: socket.socket | trio.socket.SocketType) -> bool:
    """Whether a process of the same user is at the other end. An abstract socket is open to all users."""
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(uid == os.geteuid())
