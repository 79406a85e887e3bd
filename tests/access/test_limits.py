"""How many streams there may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import settings
from trio_sse.access import limits as limits_module
from trio_sse.access.limits import Limits, Overloaded


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def new_limits(clock: Clock | None = None, **values: Any) -> Limits:
    return Limits(settings(**values), clock or Clock())


BOUNDED = settings(max_connections=5, max_connections_per_user=3, max_connections_per_address=2)


def test_without_settings_there_is_no_limit() -> None:
    limits = new_limits()
    assert not limits.any
    for _ in range(1000):
        assert limits.excess("ann", "192.0.2.1") is None
        limits.begin(object(), "ann", "192.0.2.1")


@pytest.mark.parametrize(
    ("name", "status", "user", "address"),
    [
        ("max_connections", 503, "bob", "192.0.2.2"),
        ("max_connections_per_user", 429, "ann", "192.0.2.2"),
        ("max_connections_per_address", 429, "bob", "192.0.2.1"),
    ],
)
def test_one_too_many_is_told_which_setting_says_so(name: str, status: int, user: str, address: str) -> None:
    limits = Limits(settings(**{name: 2}), Clock())
    assert limits.any
    for stream in ("first", "second"):
        assert limits.excess("ann", "192.0.2.1") is None
        limits.begin(stream, "ann", "192.0.2.1")
    overloaded = limits.excess(user, address)
    assert isinstance(overloaded, Overloaded)
    assert overloaded.status == status
    assert f"SSE_{name.upper()}" in overloaded.detail
    assert overloaded.retry_seconds > 0
    if status == 429:
        assert limits.excess("cyd", "192.0.2.3") is None, "others may"
    for _ in range(2):
        limits.end("first")
    assert limits.excess(user, address) is None
    limits.begin("third", "ann", "192.0.2.1")
    assert limits.excess(user, address), "one that ends twice counts once"


def test_streams_without_a_user_are_counted_but_not_as_one_user_s() -> None:
    limits = new_limits(max_connections_per_user=1, max_connections_per_address=3)
    for stream in range(3):
        assert limits.excess(None, "192.0.2.1") is None
        limits.begin(stream, None, "192.0.2.1")
    overloaded = limits.excess(None, "192.0.2.1")
    assert overloaded is not None
    assert "PER_ADDRESS" in overloaded.detail
    for stream in range(3):
        limits.end(stream)
    assert limits.excess(None, "192.0.2.1") is None
    assert (limits._counted, limits._users, limits._addresses) == ({}, {}, {})


def test_looking_counts_nothing() -> None:
    limits = new_limits(max_connections=1, connection_rate_per_address=1)
    for _ in range(10):
        assert limits.excess("ann", "192.0.2.1") is None


def test_one_address_may_open_only_so_many_a_second() -> None:
    clock = Clock()
    limits = new_limits(clock, connection_rate_per_address=2)
    assert limits.any

    def open_one(address: str = "192.0.2.1") -> bool:
        if limits.excess("ann", address):
            return False
        limits.begin(object(), "ann", address)
        return True

    assert [open_one() for _ in range(4)] == [True, True, False, False]
    assert open_one("192.0.2.2"), "others have their own"
    overloaded = limits.excess("ann", "192.0.2.1")
    assert overloaded is not None
    assert (overloaded.status, "SSE_CONNECTION_RATE_PER_ADDRESS" in overloaded.detail) == (429, True)
    clock.now += overloaded.retry_seconds
    assert open_one(), "when it was told to come back it is let in"
    clock.now += 1000
    assert [open_one() for _ in range(3)] == [True, True, False], "patience is not saved up"


def test_less_than_one_a_second_lets_one_in_and_then_waits() -> None:
    clock = Clock()
    limits = new_limits(clock, connection_rate_per_address=0.1)
    limits.begin(object(), "ann", "192.0.2.1")
    clock.now += 9.5
    assert limits.excess("ann", "192.0.2.1")
    clock.now += 0.6
    assert limits.excess("ann", "192.0.2.1") is None


@given(st.integers(1, 1000), st.floats(0, 1e6))
def test_what_a_second_allows_may_come_at_once(rate: int, now: float) -> None:
    clock = Clock()
    clock.now = now
    limits = new_limits(clock, connection_rate_per_address=rate)
    for _ in range(rate):
        assert limits.excess("ann", "192.0.2.1") is None
        limits.begin(object(), "ann", "192.0.2.1")
    assert limits.excess("ann", "192.0.2.1")


def test_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "_REMEMBERED", 2)
    limits = new_limits(connection_rate_per_address=1)
    for address in ("a", "b", "a", "c"):
        limits.begin(object(), "ann", address)
    assert [bool(limits.excess("ann", address)) for address in ("a", "b", "c")] == [True, False, True]


USERS = st.sampled_from(["ann", "bob"])
ADDRESSES = st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"])


@given(st.lists(st.tuples(USERS, ADDRESSES) | st.none(), max_size=60))
def test_what_is_counted_is_what_is_open(steps: list[tuple[str, str] | None]) -> None:
    """A tuple comes, None lets the one that came first go."""
    limits = Limits(BOUNDED, Clock())
    open_streams: list[tuple[str, str]] = []
    numbers = count()
    oldest = count()
    for step in steps:
        if step is None:
            if open_streams:
                open_streams.pop(0)
                limits.end(next(oldest))
            continue
        users, addresses = (Counter(stream[i] for stream in open_streams) for i in (0, 1))
        full = len(open_streams) >= 5 or users[step[0]] >= 3 or addresses[step[1]] >= 2
        assert bool(limits.excess(*step)) is full
        if not full:
            limits.begin(next(numbers), *step)
            open_streams.append(step)
    for _ in open_streams:
        limits.end(next(oldest))
    assert not list(_kept(limits)), "who is gone is forgotten"


def _kept(limits: Limits) -> Iterator[str]:
    yield from limits._users
    yield from limits._addresses


def shared_limits(clock: Clock | None = None, **values: Any) -> Limits:
    return new_limits(clock, limits_shared=True, **values)


def test_a_place_that_was_reserved_counts_and_is_taken_up() -> None:
    limits = shared_limits(max_connections_per_user=1, max_connections_per_address=1)
    reservation = limits.reserve("ann", "192.0.2.1")
    assert limits.excess("ann", "192.0.2.2")
    assert limits.excess("bob", "192.0.2.1")
    assert limits.take_up(reservation, "stream")
    assert (len(limits), limits.count(("user", "ann")), limits.count(("address", "192.0.2.1"))) == (1, 1, 1)
    assert not limits.take_up(reservation, "another"), "it is taken once"
    assert not limits.changed, "Redis has counted it when it was asked"
    limits.end("stream")
    assert limits.changed == {("user", "ann"): None, ("address", "192.0.2.1"): None}
    assert (len(limits), limits.keys()) == (0, [])


def test_a_place_that_nobody_takes_up_is_free_again() -> None:
    clock = Clock()
    limits = shared_limits(clock, max_connections_per_user=1)
    reservation = limits.reserve("ann", "192.0.2.1")
    clock.now += limits_module.RESERVED_SECONDS - 0.1
    assert limits.keys() == [("user", "ann"), ("address", "192.0.2.1")]
    clock.now += 0.2
    assert limits.keys() == []
    assert limits.changed == {("user", "ann"): None, ("address", "192.0.2.1"): None}
    assert not limits.take_up(reservation, "stream")
    assert limits.excess("ann", "192.0.2.1") is None


def test_one_that_was_taken_up_outlives_its_reservation() -> None:
    clock = Clock()
    limits = shared_limits(clock, max_connections_per_user=1)
    assert limits.take_up(limits.reserve("ann", "192.0.2.1"), "stream")
    clock.now += 1000
    assert limits.keys()
    assert limits.excess("ann", "192.0.2.1")


def test_what_changes_is_noted_only_if_it_is_shared() -> None:
    for limits, noted in ((new_limits(max_connections=5), 0), (shared_limits(max_connections=5), 2)):
        limits.begin("stream", "ann", "192.0.2.1")
        assert len(limits.changed) == noted
        limits.changed.clear()
        limits.begin("of topics alone", None, "192.0.2.1")
        assert list(limits.changed) == ([("address", "192.0.2.1")] if noted else [])


@pytest.mark.parametrize(
    ("limit", "status", "named"),
    [
        ("total", 503, "SSE_MAX_CONNECTIONS)"),
        ("user", 429, "SSE_MAX_CONNECTIONS_PER_USER"),
        ("address", 429, "SSE_MAX_CONNECTIONS_PER_ADDRESS"),
        ("rate", 429, "SSE_CONNECTION_RATE_PER_ADDRESS"),
    ],
)
def test_what_all_processes_say_is_told_as_what_one_says(limit: str, status: int, named: str) -> None:
    overloaded = shared_limits().excess_by(limit, 30)
    assert overloaded is not None
    assert (overloaded.status, named in overloaded.detail) == (status, True)
    assert (overloaded.retry_seconds > 30) == (limit == "rate")
    assert shared_limits().excess_by("", 0) is None


@pytest.mark.parametrize("without", ["open", "closed"])
def test_without_an_answer_the_setting_decides(without: str) -> None:
    overloaded = shared_limits(limits_without_redis=without).excess_by("away", 0)
    if without == "open":
        assert overloaded is None
    else:
        assert overloaded is not None
        assert (overloaded.status, "SSE_LIMITS_WITHOUT_REDIS" in overloaded.detail) == (503, True)
