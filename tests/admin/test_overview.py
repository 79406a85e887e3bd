"""What one process tells the live view."""

from __future__ import annotations

import time

from tests.admin.test_explaining import NODE, Process
from tests.support.inside import Client
from trio_sse.admin.overview import MOST_SLOW, MOST_TOPICS, overview
from trio_sse.admin.reports import Overview
from trio_sse.delivery.recorder import Refusal


async def told(process: Process, problem: str | None = None) -> Overview:
    return await overview(NODE, process.hub, process.recorder, problem)


async def test_streams_users_topics_and_counts() -> None:
    process = Process()
    for n in range(3):
        process.opened(f"u{n}", topics=["news", f"t{n}"])
    process.comes(user_id="u1")
    seen = await told(process, "Redis is away")
    assert (seen.streams, seen.users, seen.topics) == (3, 3, 4)
    assert seen.most[0] == ("news", 3)
    assert seen.totals["published"] == 1
    assert seen.problem == "Redis is away"
    assert 0 <= seen.loop_seconds < 60
    assert seen.lag_seconds is None


async def test_those_who_have_waited_for_longest_come_first() -> None:
    process = Process()
    for n in range(MOST_SLOW + 2):
        connection = process.opened(f"u{n}")
        Client(connection).busy = True
        process.comes(user_id=f"u{n}")
    process.opened("quick")
    process.comes(user_id="quick")
    seen = await told(process)
    assert seen.waiting == MOST_SLOW + 2
    assert [one.user for one in seen.slow] == [f"u{n}" for n in range(MOST_SLOW)]
    assert seen.slow[0].waiting == 1


async def test_the_topics_with_the_most_streams() -> None:
    process = Process()
    process.opened("ann", topics=[f"t{n}" for n in range(MOST_TOPICS + 5)])
    process.opened("bob", topics=["t7"])
    seen = await told(process)
    assert len(seen.most) == MOST_TOPICS
    assert seen.most[0] == ("t7", 2)


async def test_how_old_the_last_entry_of_the_log_was() -> None:
    process = Process()
    milliseconds = int(time.time() * 1000) - 2500
    process.recorder.message(1, (milliseconds, 0), ("ann",), b"{}", from_log=True)
    lag = (await told(process)).lag_seconds
    assert lag is not None
    assert 2.4 < lag < 60


async def test_what_went_wrong_last() -> None:
    process = Process()
    process.recorder.trouble("redis_lost", "why")
    process.recorder.refused(Refusal(5.0, "ann", False, 401, "no", "192.0.2.9"))
    seen = await told(process)
    assert [(one.kind, one.detail) for one in seen.troubles] == [("redis_lost", "why")]
    assert [one.detail for one in seen.refusals] == ["no"]
