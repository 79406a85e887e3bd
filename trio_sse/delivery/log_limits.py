"""How often one kind of event is logged, when others can cause it as often as they like."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


class LogLimit:
    """Lets one event in `seconds` be logged, and counts the others. Pure."""

    def __init__(self, seconds: float, clock: Callable[[], float] = trio.current_time) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = -math.inf
        self._unlogged = 0

    def passed(self) -> int | None:
        """Count one event. If it is to be logged, returns how many were not since the last that was; else
        None."""
        now = self._clock()
        if now < self._next:
            self._unlogged += 1
            return None
        self._next = now + self._seconds
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged
