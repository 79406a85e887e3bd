"""HTTP/2 clients that open no window hold up what is sent to them, and nothing piles up for them.

Hypercorn 0.18 lets a writer go on when little was taken from its buffer, not when little is left in it. From
a client with a closed window nothing is ever taken, so nothing ever waited, and all of a stream's messages
stayed in memory. tests/integration/test_libraries.py tells when this is no longer needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import hypercorn.protocol.h2
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, StreamBuffer


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


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Stand in the place of Hypercorn's own."""
    module = vars(hypercorn.protocol.h2)
    module["StreamBuffer"] = BoundedStreamBuffer
    try:
        yield
    finally:
        module["StreamBuffer"] = StreamBuffer
