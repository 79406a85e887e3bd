"""Streams that end at a set time."""

from __future__ import annotations

import heapq
import math
import weakref
from collections.abc import Callable
from itertools import count

import trio

from trio_sse.delivery.connection import Connection

_TIDY_FROM = 64


class Lifetimes:
    """Ends each added stream at its time. One task serves all of them."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, weakref.ref[Connection], Callable[[], bytes], str]] = []
        self._order = count()
        self._tidy_at = _TIDY_FROM
        self._earlier = trio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(
        self, connection: Connection, at: float, last_words: Callable[[], bytes] = bytes, why: str = ""
    ) -> None:
        """End `connection` at `at` (Trio's clock). `last_words` is called then, for its last notice; without
        one, `why` it ends."""
        if len(self._due) >= self._tidy_at:
            self._tidy()
        heapq.heappush(self._due, (at, next(self._order), weakref.ref(connection), last_words, why))
        if self._due[0][0] == at:
            self._earlier.set()

    def _tidy(self) -> None:
        """Drop streams that have ended before their time."""
        self._due = [due for due in self._due if (connection := due[2]()) and not connection.closed]
        heapq.heapify(self._due)
        self._tidy_at = max(_TIDY_FROM, 2 * len(self._due))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End streams at their time, until cancelled."""
        task_status.started()
        while True:
            with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                await self._earlier.wait()
            self._earlier = trio.Event()
            self._end_due()

    def _end_due(self) -> None:
        while self._due and self._due[0][0] <= trio.current_time():
            _, _, reference, last_words, why = heapq.heappop(self._due)
            connection = reference()
            if connection is not None:
                connection.end(last_words(), why)
