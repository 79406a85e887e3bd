"""Even shares: a process with more streams than the others ends some, whose clients come back elsewhere."""

from __future__ import annotations

import random
from collections import deque

import structlog
import trio

from trio_sse.broker.census import Census
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.notices import farewell

log = structlog.stdlib.get_logger("trio_sse.rebalancing")

STEP_SECONDS = 0.25
"""How often some streams are ended, while there are too many."""

LOOK_SECONDS = 2.0
"""How often it looks whether there are too many."""

SHED_PER_SECOND = 0.03
"""The part of its streams that a process ends in a second, at most."""

RETURN_SECONDS = 5.0
"""Seconds over which those clients spread their reconnects."""

FEW = 50
"""A process with fewer streams sheds none."""

PATIENCE = 3
"""How many times what is too much is shed, at most. If as many have come back, whatever stands in front leads
clients to where they were."""

PAUSE_SECONDS = (60.0, 3600.0)
"""How long it then waits before it tries again, the first time and at most."""


class Rebalancing:
    """Ends streams while this process has more than `bound` above the mean of all, until it has half of that;
    with 0 it never does. It does nothing while the others' counts are not known, and during a stop."""

    def __init__(self, hub: Hub, bound: float, census: Census) -> None:
        self._hub = hub
        self._bound = bound
        self._census = census
        self._away: deque[tuple[float, int]] = deque()
        self._shedding = False
        self._shed = 0
        self._most = 0.0
        self._owed = 0.0
        self._pause = PAUSE_SECONDS[0]
        self._not_before = 0.0

    async def run(self) -> None:
        """Until cancelled. Returns at once if it never is to end any."""
        while self._bound:
            await trio.sleep(STEP_SECONDS if self._shedding else LOOK_SECONDS)
            if count := self.too_many():
                self._end(count)

    def too_many(self) -> int:
        """How many streams are to be ended now, in a step of STEP_SECONDS."""
        now, own = trio.current_time(), len(self._hub)
        counts = None if self._hub.draining else self._census.counts
        if counts is None or self._census.process not in counts:
            self._shedding = False
            return 0
        while self._away and self._away[0][0] <= now:
            self._away.popleft()
        others = sum(counts.values()) - counts[self._census.process]
        # Those that are on their way are counted nowhere, and would make the mean seem lower than it is.
        mean = (others + own + sum(count for _, count in self._away)) / len(counts)
        if own < FEW:
            self._shedding = False
            return 0
        if not self._shedding:
            if own <= mean * (1 + self._bound):
                self._pause = PAUSE_SECONDS[0]
                return 0
            if now < self._not_before:
                return 0
            self._begin(own, mean)
        left = own - mean * (1 + self._bound / 2)
        if left < 1:
            self._shedding = False
            return 0
        if self._shed >= self._most:
            self._give_up(now)
            return 0
        self._owed += own * SHED_PER_SECOND * STEP_SECONDS
        count = min(int(self._owed), int(left))
        self._owed -= count
        return count

    def _begin(self, own: int, mean: float) -> None:
        self._shedding, self._shed, self._owed = True, 0, 0.0
        self._most = PATIENCE * (own - mean) + FEW
        log.info("shedding streams: more than the mean of all", streams=own, mean=round(mean))

    def _give_up(self, now: float) -> None:
        self._shedding = False
        self._not_before = now + self._pause
        log.warning(
            "shed streams came back here: what stands in front does not spread clients (SSE_REBALANCE)",
            shed=self._shed,
            again_in_seconds=self._pause,
        )
        self._pause = min(2 * self._pause, PAUSE_SECONDS[1])

    def _end(self, count: int) -> None:
        connections = self._hub.connections
        chosen = random.sample(connections, min(count, len(connections)))
        for connection in chosen:
            connection.end(farewell("rebalancing", RETURN_SECONDS))
        self._shed += len(chosen)
        self._away.append((trio.current_time() + RETURN_SECONDS, len(chosen)))
