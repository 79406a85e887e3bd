"""Bounds of one HTTP/2 connection: how much it may hold, and how many requests it may waste."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from hypercorn.config import Config
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, StreamBuffer

WASTE = 1000
"""How many requests of a connection may be reset by the client, or refused without an answer, before it
accepts no more (CVE-2023-44487, CVE-2025-8671). At twice as many the connection ends."""

WASTE_PER_SECOND = 10
"""How many of them stop counting per second. Users who close their pages are no attack."""

UNREAD_BYTES = 1024 * 1024
"""Bytes of a body that are read and dropped after its request has been answered. After that the client is
asked to stop (RFC 9113, 8.1)."""


class BoundedStreamBuffer(StreamBuffer):
    """The bytes that wait to be sent on a stream. The writer resumes when fewer than the low-water mark are
    left."""

    def __init__(self, event_class: type[Any]) -> None:
        super().__init__(event_class)
        self.ended = event_class()
        """Set when all bytes and the end of the stream were sent, or when nothing more can be sent."""

    @property
    def said_all(self) -> bool:
        """Whether the writer has finished."""
        return self._complete

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data

    async def close(self) -> None:
        await super().close()
        await self.ended.set()


class Waste:
    """The number of wasted requests, as a level that falls with time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._level = 0.0
        self._since = clock()

    def add(self) -> float:
        """Count one. Returns the level."""
        now = self._clock()
        self._level = max(0.0, self._level - (now - self._since) * WASTE_PER_SECOND) + 1
        self._since = now
        return self._level


@lru_cache(maxsize=4)
def without_queue_limit(config: Config) -> Config:
    """A copy of `config` without Hypercorn's queue of 10 pieces of a body: an application that does not read
    would block its whole connection. The HTTP/2 window bounds what waits."""
    own = copy.copy(config)
    own.max_app_queue_size = math.inf  # type: ignore[assignment]
    return own
