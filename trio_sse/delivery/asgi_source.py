"""The bytes of a connection for an ASGI server, which awaits them and passes them to its `send`."""

from __future__ import annotations

import math

import trio

from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.marks import Part


class AsgiOutlet:
    """Hands bytes to the task that passes them to an ASGI `send` (Quart's).

    While that task waits here, it gets whole what the outlet takes. While it is inside `send`, the outlet
    refuses, and messages wait in the connection's memory channel.
    """

    def __init__(
        self,
        channel: trio.MemorySendChannel[tuple[Part, ...]],
        waiting: trio.MemoryReceiveChannel[tuple[Part, ...]],
    ) -> None:
        self._channel = channel
        self._waiting = waiting
        self._parked = False
        self.ended = math.inf
        """When it was closed."""

    def take(self, batch: Batch) -> bool:
        if not self._waits():
            return False
        self._parked = False
        # Straight to the waiting task: no slot is used.
        self._channel.send_nowait(((batch.last, batch.data, math.inf),))
        return True

    def pull(self) -> None:
        if self._waits():
            self._parked = False
            self._channel.send_nowait(())

    def _waits(self) -> bool:
        """Whether the task waits. One that has just been cancelled does not, and has not been told yet."""
        return self._parked and self._channel.statistics().tasks_waiting_receive > 0

    def close(self) -> None:
        self._parked = False
        self.ended = trio.current_time()

    async def wait(self) -> bytes:
        """The next bytes, or b"" if the connection has some waiting. Raises trio.EndOfChannel if the
        connection was closed."""
        self._parked = True
        try:
            return b"".join(frame for _, frame, _ in await self._waiting.receive())
        finally:
            self._parked = False


class AsgiSource:
    """The bytes of one connection for an ASGI server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outlet = AsgiOutlet(*connection.open_channel())
        connection.attach(self._outlet)

    @property
    def ended(self) -> float:
        """When the connection was closed, in Trio's time. math.inf before."""
        return self._outlet.ended

    async def next(self) -> bytes | None:
        """The next bytes to send, or None at the end of the stream. Cancelled, it loses nothing that was
        taken."""
        while True:
            if data := self._connection.take_waiting():
                return data
            try:
                if data := await self._outlet.wait():
                    return data
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return None
