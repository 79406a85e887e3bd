"""When each connection's heartbeat is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import live
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.wheel import BEAT_TOGETHER_SECONDS, Wheel

PERIOD = 30.0
EARLY = 2 * BEAT_TOGETHER_SECONDS + 0.001
"""A heartbeat may come so much before its time, but not after."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_that_is_not_there_is_not_removed() -> None:
    wheel, connection = Wheel(PERIOD, Clock()), live()
    assert not wheel.remove(connection)
    wheel.add(connection)
    assert wheel.remove(connection)
    assert not wheel.remove(connection)
    assert wheel.take_due(1) == []


@pytest.mark.parametrize("now", [0.0, 5.0, 123_456.789])
def test_while_it_is_empty_nothing_is_due_for_a_period(now: float) -> None:
    clock = Clock()
    clock.now = now
    wheel = Wheel(PERIOD, clock)
    assert now + PERIOD - EARLY < wheel.next_time() <= now + PERIOD
    assert wheel.take_due(1) == []
    assert now + PERIOD - EARLY < wheel.next_time() <= now + PERIOD


def test_however_long_it_was_empty_nobody_is_early() -> None:
    """The time of its slot has passed, but the wheel was not looked at then."""
    clock = Clock()
    wheel, connection = Wheel(PERIOD, clock), live()
    wheel.take_due(1)
    clock.now = 7
    wheel.add(connection)
    for clock.now in (7.1, 20, 29, 36):
        assert wheel.take_due(1) == []
    clock.now = 37
    assert wheel.take_due(1) == [connection]


def test_one_that_comes_while_others_are_due_is_not_among_them() -> None:
    """The wheel is looked at a moment after the time that it said."""
    clock = Clock()
    wheel, old, new = Wheel(PERIOD, clock), live(), live()
    clock.now = 7.01
    wheel.add(old)
    wheel.take_due(1)
    clock.now = wheel.next_time() + 0.2 * BEAT_TOGETHER_SECONDS
    wheel.add(new)
    assert wheel.take_due(10) == [old]
    assert wheel.next_time() > clock.now + PERIOD - EARLY


def test_many_are_taken_in_turns_none_twice() -> None:
    clock = Clock()
    wheel = Wheel(PERIOD, clock)
    connections = [live() for _ in range(10)]
    for connection in connections:
        wheel.add(connection)
        clock.now += 2 * BEAT_TOGETHER_SECONDS
    clock.now = PERIOD + 5
    taken = []
    for expected in (3, 3, 3, 1):
        assert wheel.next_time() <= clock.now
        now = wheel.take_due(3)
        assert len(now) == expected
        taken += now
    assert taken == connections
    assert wheel.next_time() > clock.now


def test_whoever_is_late_once_is_in_time_the_next() -> None:
    clock = Clock()
    wheel, connection = Wheel(PERIOD, clock), live()
    wheel.add(connection)
    clock.now = 37
    assert wheel.take_due(1) == [connection]
    assert 60 - EARLY < wheel.next_time() <= 60


@pytest.mark.parametrize("period", [0.05, 1.0, 7.3, 30.0, 3600.0])
def test_for_any_period_the_first_is_one_period_away_or_a_little_less(period: float) -> None:
    clock = Clock()
    clock.now = 1000.03
    wheel, connection = Wheel(period, clock), live()
    wheel.add(connection)
    clock.now += period * 0.89
    assert wheel.take_due(1) == []
    clock.now += period * 0.11
    assert wheel.take_due(1) == [connection]


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "wait"]), st.floats(0, 20), st.integers(0, 9)), max_size=60
)


@given(STEPS, st.floats(0, 1e6))
def test_everybody_has_a_heartbeat_once_in_a_period(
    steps: list[tuple[str, float, int]], start: float
) -> None:
    """When somebody looks whenever the wheel says so."""
    clock = Clock()
    clock.now = start
    wheel = Wheel(PERIOD, clock)
    due: dict[Connection, float] = {}
    for what, seconds, number in steps:
        if what == "add":
            connection = live()
            wheel.add(connection)
            due[connection] = clock.now + PERIOD
        elif what == "remove" and due:
            connection = list(due)[number % len(due)]
            assert wheel.remove(connection)
            del due[connection]
        elif what == "wait":
            end = clock.now + seconds
            while (following := wheel.next_time()) <= end:
                clock.now = max(clock.now, following)
                for connection in wheel.take_due(100):
                    assert due[connection] - EARLY <= clock.now <= due[connection] + EARLY
                    due[connection] += PERIOD
            clock.now = end
            assert all(time > clock.now - EARLY for time in due.values())
