from __future__ import annotations

from trio_sse.delivery.log_limits import LogLimit


def test_one_event_in_that_time_is_logged_and_tells_of_the_others() -> None:
    now = 0.0
    limit = LogLimit(10, lambda: now)
    assert limit.passed() == 0
    now = 9.9
    assert [limit.passed(), limit.passed()] == [None, None]
    now = 10.0
    assert limit.passed() == 2
    now = 25.0
    assert limit.passed() == 0
