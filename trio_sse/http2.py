"""Two faults of Hypercorn 0.18 with HTTP/2, mended in its place.

- It lets a writer go on when little was taken from its buffer, not when little is left in it. From a client
  with a closed window nothing is ever taken, so nothing ever waited, and all of a stream's messages stayed in
  memory.
- It lets those wait who want to see their buffer empty, though the connection has ended and nobody empties
  it. A response to an error, begun as the client left, stayed for ever, with its connection.

tests/integration/test_libraries.py tells when one of them is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import hypercorn.protocol
import hypercorn.protocol.h2
from hypercorn.events import Event
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer

from trio_sse.standing_in import standing_in


class BoundedStreamBuffer(StreamBuffer):
    """Lets the writer go on when less than the low-water mark is left."""

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class EndingProtocol(H2Protocol):
    """Lets nobody wait for a connection that has ended. What is sent to it is dropped."""

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if self.closed:
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: StreamEvent) -> None:
        if not self.closed:
            await super().stream_send(event)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Stand in the place of Hypercorn's own."""
    with (
        standing_in(hypercorn.protocol.h2, {"StreamBuffer": BoundedStreamBuffer}),
        standing_in(hypercorn.protocol, {"H2Protocol": EndingProtocol}),
    ):
        yield
