"""One browser: what it is sent, what waits for it, what it lost."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import trio

from trio_sse import wire
from trio_sse.batch import Batch
from trio_sse.messages import utc_now
from trio_sse.metrics import Counters
from trio_sse.outlet import AsgiOutlet, Outlet

_open_channel = trio.open_memory_channel[bytes]


class Connection:
    """A stream of one user, from joining the hub to leaving it.

    Everything but the outlet's own task is synchronous and never waits: a slow client costs nobody else
    anything. While the outlet takes nothing, up to `capacity` messages wait in a memory channel; those
    beyond are dropped, counted, and declared by a `gap` in the place where they are missing.
    """

    __slots__ = (
        "__weakref__", "_counters", "_dropped", "_notices", "_outlet", "channel", "closed", "id", "since",
        "user_id", "waiting",
    )  # fmt: skip

    def __init__(self, user_id: str, capacity: int, counters: Counters) -> None:
        self.user_id = user_id
        self.id = f"{random.getrandbits(64):016x}"
        self.since = 0
        """The sequence number up to which nothing is owed to this connection; set on joining the hub."""
        self.closed = False
        self.channel, self.waiting = _open_channel(capacity)
        self._outlet: Outlet | None = None
        self._dropped = 0
        self._notices: dict[str, bytes] = {}
        self._counters = counters

    def attach(self, outlet: Outlet) -> None:
        """Let `outlet` carry the stream. One that was closed before ends at once."""
        self._outlet = outlet
        if self.closed:
            outlet.close()

    def offer(self, batch: Batch) -> None:
        """Take the messages of `batch` that are newer than this connection. Never waits."""
        if self.closed:
            return
        if batch.first <= self.since:
            newer = batch.after(self.since)
            if newer is None:
                return
            batch = newer
        if self._outlet is None or not self._outlet.take(batch):
            for frame in batch.frames:
                self._queue(frame)

    def tell(self, kind: str, batch: Batch) -> None:
        """Say something of the service's own. While the client is behind, the latest of each kind waits."""
        if self.closed:
            return
        if self._outlet is None or not self._outlet.take(batch):
            self._notices[kind] = batch.data

    def take_waiting(self) -> bytes:
        """Everything that waits, in order, or b"" when the client is up to date."""
        parts: list[bytes] = []
        try:
            while True:
                parts.append(self.waiting.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        parts.append(self._owed())
        self._settle()
        return b"".join(parts)

    def close(self) -> None:
        """End the stream. What waits may still be taken; nothing new is. Calling it again is harmless."""
        if not self.closed:
            self.closed = True
            self.channel.close()
            if self._outlet is not None:
                self._outlet.close()

    def _queue(self, frame: bytes) -> None:
        try:
            self.channel.send_nowait(self._owed() + frame)
        except trio.WouldBlock:
            self._dropped += 1
            self._counters.dropped += 1
        else:
            self._settle()

    def _owed(self) -> bytes:
        """What the client is to be told before anything newer: the gap first, since it is the oldest."""
        if not self._dropped and not self._notices:
            return b""
        said = b"".join(self._notices.values())
        return gap("slow_client", self._dropped) + said if self._dropped else said

    def _settle(self) -> None:
        self._dropped = 0
        self._notices.clear()


class StreamSource:
    """The bytes of one connection for an ASGI server: a greeting, then whatever the hub offers."""

    def __init__(self, connection: Connection, greeting: bytes) -> None:
        self._connection = connection
        self._outlet = AsgiOutlet(connection.channel, connection.waiting)
        self._greeting = greeting
        connection.attach(self._outlet)

    async def next(self) -> bytes | None:
        """The next bytes to send, or None at the end of the stream. Cancelling it loses nothing taken."""
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            return greeting
        if data := self._connection.take_waiting():
            return data
        try:
            return await self._outlet.wait()
        except trio.EndOfChannel:
            return None


def greeting(
    connection: Connection, position: str, *, retry_milliseconds: int, heartbeat_seconds: float,
    last_event_id: str | None,
) -> bytes:  # fmt: skip
    """The first bytes of a stream: the current position, so that a client which receives nothing more can
    still resume from it, and a `gap` if it asked for a position that is not known here."""
    connected = {
        "user_id": connection.user_id,
        "connection_id": connection.id,
        "server_time": utc_now(),
        "heartbeat_seconds": int(heartbeat_seconds) if heartbeat_seconds.is_integer() else heartbeat_seconds,
        "replayed": 0,
    }
    said = wire.retry(retry_milliseconds) + service_event("connected", connected, id=position)
    if last_event_id:
        said += gap("unknown_id", None)
    return said


def service_event(name: str, data: dict[str, Any], id: str | None = None) -> bytes:  # noqa: A002
    """An event that the service says itself: always named, always with data."""
    return wire.event(msgspec.json.encode(data), name=name, id=id)


def gap(reason: str, dropped: int | None) -> bytes:
    """Messages are missing here: how many, or None where it cannot be known."""
    return service_event("gap", {"reason": reason, "dropped": dropped})


def heartbeat() -> Batch:
    return Batch.unnumbered(service_event("heartbeat", {"server_time": utc_now()}))
