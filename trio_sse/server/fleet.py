"""Streams on their own sockets. An idle one is a few objects and no task."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol, cast

import trio

from trio_sse.access.admission import Accepted
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.outlet import SocketOutlet
from trio_sse.server.poller import Poller
from trio_sse.service import Service
from trio_sse.sockets import receive

MAX_IGNORED = 65536
"""Bytes a client may send after its request. They are not answered: the connection closes after the
stream."""

REPLAY_TURNS = 16
"""Pages of replays that are written before other tasks run."""


class Opening(NamedTuple):
    """What is kept of a request that was admitted. Its header fields, which may contain a token, are not:
    they must not stay in memory as long as the stream."""

    accepted: Accepted
    head: bytes
    """The head of the response."""
    chunked: bool


class Stream(SocketOutlet):
    """One stream and its socket, from the head of the response until the client leaves, the stream ends, or a
    write times out."""

    __slots__ = ("_ignored",)

    def __init__(self, fd: int, connection: Connection, fleet: Fleet, *, chunked: bool) -> None:
        super().__init__(fd, connection, fleet, chunked=chunked)
        self._ignored = 0

    def readable(self) -> None:
        self._ignore(4096)

    def _ignore(self, most: int) -> bytes:
        """Read what came, and count it as ignored. Returns it, or b"" if nothing did or if the stream has
        ended with it."""
        received = receive(self.fd, most)
        if received is None:
            return b""
        self._ignored += len(received)
        if not received or self._ignored > MAX_IGNORED:
            self.cut()
            return b""
        return received

    def cut(self) -> None:
        self._owner.ended(self)


class MakeStream(Protocol):
    """Makes the outlet of a stream."""

    def __call__(self, fd: int, connection: Connection, fleet: Fleet, *, chunked: bool) -> Stream: ...


class Fleet:
    """All streams on their own sockets. Each is in the hub exactly as long as it is here.

    Tasks run only for clients that do not take at once what is for them. They run in `nursery`, and a stream
    that ends takes its task with it.
    """

    nursery: trio.Nursery

    def __init__(self, service: Service, poller: Poller) -> None:
        self.turns = trio.CapacityLimiter(REPLAY_TURNS)
        self.timeout = service.settings.write_timeout_seconds
        self.all_left = trio.Event()
        """Set when the last stream has ended. Replaced by the first one that opens."""
        self._service = service
        self._poller = poller
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def open(self, fd: int, opening: Opening, make: MakeStream = Stream) -> None:
        """Serve an admitted stream on the socket `fd`, which belongs to the fleet from now on. `make` makes
        its outlet, a Stream."""
        try:
            connection = self._service.open(opening.accepted)
        except BaseException:
            self._poller.forget(fd)
            os.close(fd)
            raise
        stream = make(fd, connection, self, chunked=opening.chunked)
        if not self._size:
            self.all_left = trio.Event()
        self._size += 1
        try:
            self._poller.watch(fd, stream)
            stream.begin(opening.head, connection.take_waiting())
            if stream.fd >= 0:  # else the client left meanwhile, and the connection with it
                connection.attach(stream)
        except BaseException:
            self.ended(stream)
            raise

    def ended(self, outlet: SocketOutlet) -> None:
        fd = outlet.give_back()
        if fd < 0:
            return
        self._poller.forget(fd)
        connection = cast(Connection, outlet.backlog)
        self._service.release(connection, "write_timeout" if outlet.timed_out else "")
        os.close(fd)
        self._size -= 1
        if not self._size:
            self.all_left.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there for streams until cancelled. Then all of them end at once."""
        async with trio.open_nursery() as self.nursery:
            try:
                task_status.started()
                await self._poller.run()
            finally:
                self._poller.close()

    def close(self) -> None:
        """End all streams now, whatever they are owed."""
        self._poller.cut_all()
