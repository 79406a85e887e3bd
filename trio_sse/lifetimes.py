"""Streams that end at a set time."""

from __future__ import annotations

import heapq
import math
import weakref
from itertools import count

import trio

from trio_sse.connection import Connection


class Lifetimes:
    """Ends each stream that was added when its time has come. One task for all of them."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, weakref.ref[Connection], bytes]] = []
        self._order = count()
        self._earlier = trio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, connection: Connection, at: float, last_words: bytes = b"") -> None:
        """End `connection` at the time `at` of Trio's clock, with these last words."""
        heapq.heappush(self._due, (at, next(self._order), weakref.ref(connection), last_words))
        if self._due[0][0] == at:
            self._earlier.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End streams in time, until cancelled."""
        task_status.started()
        while True:
            with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                await self._earlier.wait()
            self._earlier = trio.Event()
            while self._due and self._due[0][0] <= trio.current_time():
                _, _, reference, last_words = heapq.heappop(self._due)
                connection = reference()
                if connection is not None:
                    connection.end(last_words)
