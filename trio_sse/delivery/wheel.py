"""When each connection's heartbeat is due: a timing wheel (Varghese and Lauck, 1987)."""

from __future__ import annotations

from collections.abc import Callable

from trio_sse.delivery.connection import NO_SLOT, Connection

BEAT_TOGETHER_SECONDS = 0.05
"""Heartbeats due within so many seconds are sent together: a wake-up costs more than a heartbeat."""

_ROUNDING = 1e-6


class Wheel:
    """Connections by the time of their heartbeat. The period is one for all, so each keeps its slot as long
    as it is here, and a heartbeat moves nothing.

    Time is counted in ticks, and a period is as many ticks as there are slots.
    """

    def __init__(self, period: float, clock: Callable[[], float]) -> None:
        size = max(20, round(period / BEAT_TOGETHER_SECONDS))
        self._slots: list[set[Connection]] = [set() for _ in range(size)]
        self._due = [0] * size  # the tick at which each slot that is not empty is due
        self._tick_seconds = period / size
        self._clock = clock
        self._last: int | None = None  # the last tick that was looked at

    def add(self, connection: Connection) -> None:
        """Let its heartbeats begin one period from now, less one to two ticks. It was not here before."""
        size, tick = len(self._slots), self._now() - 1  # the slot of the present tick may be due yet
        connection.slot = slot = tick % size
        if not self._slots[slot]:
            self._due[slot] = tick + size
        self._slots[slot].add(connection)

    def remove(self, connection: Connection) -> bool:
        """Return whether it was here."""
        if connection.slot < 0:
            return False
        self._slots[connection.slot].remove(connection)
        connection.slot = NO_SLOT
        return True

    def take_due(self, most: int) -> list[Connection]:
        """Those whose heartbeat is due, until there are `most` or more of them."""
        size, now = len(self._slots), self._now()
        last = now - size if self._last is None else max(self._last, now - size)
        taken: list[Connection] = []
        while last < now and len(taken) < most:
            last += 1
            slot = last % size
            if self._slots[slot] and self._due[slot] <= now:
                taken += self._slots[slot]
                self._due[slot] = last + size
        self._last = last
        return taken

    def next_time(self) -> float:
        """When `take_due` has the next ones, on the clock: in the past if it has some now."""
        size, now = len(self._slots), self._now()
        last = now - size if self._last is None else self._last
        end = max(last, now) + size - 1  # one that is added meanwhile is not due before
        for tick in range(last + 1, end):
            if self._slots[tick % size] and self._due[tick % size] <= tick:
                return tick * self._tick_seconds
        return end * self._tick_seconds

    def _now(self) -> int:
        return int(self._clock() / self._tick_seconds + _ROUNDING)
