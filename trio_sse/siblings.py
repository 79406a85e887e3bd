"""The workers of one service: each answers the questions of the others at a Unix socket.

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


TURN_SECONDS = 0.5
"""A worker that has not answered after so long is looked at again the next time that somebody asks."""

Answer = Callable[[bytes], bytes]
"""Makes the answer to a question of one kind. Must not wait."""

_decode = msgspec.msgpack.Decoder(Counts).decode
_question = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class Siblings:
    """The other workers of this service. `own` counts what is in this one; `same` has the names of totals
    that each worker counts for all of them."""

    def __init__(self, own: Callable[[], Counts], same: Container[str] = ()) -> None:
        self.answers: dict[str, Answer] = {
            "counts": lambda _: msgspec.msgpack.encode(own()),
            "turn": lambda _: b"here",
        }
        """By the kind of question. To be filled before `run`."""
        self._own = own
        self._same = same
        self._name = ""
        self._silent_since: dict[str, float] = {}
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

    async def silence(self) -> float:
        """For how many seconds another worker has been there and has answered nobody here. Nobody asks in
        between, so it counts from the first question without an answer."""
        _, silent = await self.ask("turn", seconds=TURN_SECONDS)
        now = trio.current_time()
        self._silent_since = {name: self._silent_since.get(name, now) for name in silent}
        return now - min(self._silent_since.values(), default=now)

    async def ask(
        self, kind: str, body: bytes = b"", *, seconds: float = ANSWER_SECONDS
    ) -> tuple[list[bytes], set[str]]:
        """The answers of the others to a question, and who has not answered in time."""
        answers: list[bytes] = []
        others, silent = self._connect()
        question = msgspec.msgpack.encode((kind, body))

        async def ask(name: str, sock: socket.socket) -> None:
            silent.add(name)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(question)
                    await stream.send_eof()
                    answers.append(b"".join([part async for part in stream]))
            silent.remove(name)

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for name, sock in others.items():
                    nursery.start_soon(ask, name, sock)
        return answers, silent

    def tell(self, kind: str, body: bytes) -> None:
        """Tell the others something, as far as that takes no waiting. Nobody answers."""
        for sock in self._connect()[0].values():
            with sock, contextlib.suppress(OSError):
                sock.sendall(msgspec.msgpack.encode((kind, body)))

    async def _answer(self, stream: trio.SocketStream) -> None:
        broken = (trio.BrokenResourceError, msgspec.MsgspecError)
        with trio.move_on_after(ANSWER_SECONDS), contextlib.suppress(*broken):
            async with stream:
                if _is_ours(stream.socket):
                    kind, body = _question(b"".join([part async for part in stream]))
                    if (answer := self.answers.get(kind)) is not None:
                        await stream.send_all(answer(body))

    async def _ask_all(self) -> Counts:
        found: list[Counts] = []
        answers, _ = await self.ask("counts")
        for answer in answers:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(_decode(answer))
        return reduce(partial(Counts.with_those_of, same=self._same), found, self._own())

    def _connect(self) -> tuple[dict[str, socket.socket], set[str]]:
        """A connection to each of the others, by its name, and who is there and takes none."""
        connected: dict[str, socket.socket] = {}
        busy: set[str] = set()
        for name in _names(self._name.rpartition("/")[0]) if self._name else ():
            if name != self._name:
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                try:
                    sock.connect(name)
                    if _is_ours(sock):
                        connected[name] = sock
                        continue
                except BlockingIOError:  # nobody accepts, and as many wait as may
                    busy.add(name)
                except OSError:  # nobody is there
                    pass
                sock.close()
        return connected, busy


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
