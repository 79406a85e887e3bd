"""Whether the event loop turns, and how late it is."""

from __future__ import annotations

import trio

from trio_sse.counters import Histogram

LOOK_SECONDS = 0.5

STUCK_SECONDS = 5.0
"""A loop that has not turned for so long does not serve anybody: `/healthz` fails."""


class Turning:
    """Looks at the clock again and again. A task that does not give way delays that."""

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag
        self._due = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self._due = trio.current_time()
        task_status.started()
        while True:
            self._due = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(self._due)
            self._lag.observe(self.late)

    @property
    def late(self) -> float:
        """By how many seconds the loop is late. After it stood still, whoever is first to run sees that."""
        return max(0.0, trio.current_time() - self._due) if self._due else 0.0
