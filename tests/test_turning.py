"""Whether the event loop turns."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_sse.counters import LAG_SECONDS, Histogram
from trio_sse.turning import LOOK_SECONDS, Turning


async def test_a_loop_that_stands_still_is_late_until_it_has_looked_again(mock_clock: MockClock) -> None:
    lag = Histogram(LAG_SECONDS)
    turning = Turning(lag)
    assert turning.late == 0
    async with trio.open_nursery() as nursery:
        await nursery.start(turning.run)
        await wait_all_tasks_blocked()
        mock_clock.jump(LOOK_SECONDS + 7)  # as time goes by while no task gives way
        assert turning.late == 7
        await wait_all_tasks_blocked()
        assert turning.late == 0
        nursery.cancel_scope.cancel()
    assert (sum(lag.counts), lag.sum) == (1, 7)
