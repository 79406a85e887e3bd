"""Where the bytes of a connection go."""

from __future__ import annotations

from typing import Protocol

import trio

from trio_sse.batch import Batch


class Outlet(Protocol):
    """A way out that either takes a batch whole, at once, or refuses it whole."""

    def take(self, batch: Batch) -> bool:
        """Take all of `batch` now, or nothing of it because earlier bytes are still on their way.

        Never waits. Bytes leave in the order they were taken.
        """
        ...

    def close(self) -> None:
        """End the stream: nothing is taken any more, the task that writes comes to its end."""
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
