"""The judge judged: what it must find, and what it must let pass."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.ledger import EVERYBODY, Count, Gap, Ledger, Seen, Sight

UNKNOWN = Gap("redis_reconnected")


def published(number: int) -> Ledger:
    """Messages 1 to `number` for user a, by the stream."""
    ledger = Ledger(["a", "b"])
    for _ in range(number):
        ledger.accept(ledger.attempt("a"), "stream")
    return ledger


def count(ledger: Ledger, *sights: int | Gap) -> Count:
    return ledger.count("a", [Seen(sight) if isinstance(sight, int) else sight for sight in sights])


@pytest.mark.parametrize(
    ("sights", "fault"),
    [
        ((1, 3), "lost"),
        ((2, 3), "lost"),
        ((1, 2), "lost"),
        ((UNKNOWN, 1, 3), "lost"),  # a gap stands for what is missing in its place, and nowhere else
        ((1, 2, 3, 2), "duplicated"),
        ((1, 1, 2, 3), "duplicated"),
        ((1, 3, 2), "disordered"),
        ((1, UNKNOWN, 3, 2), "disordered"),
        ((1, Gap("slow_client", 2), 3), "miscounted"),
        ((1, 2, Gap("slow_client", 1), 3), "miscounted"),
        ((1, 2, 3, 4), "foreign"),
    ],
)
def test_what_is_wrong_is_found(sights: tuple[int | Gap, ...], fault: str) -> None:
    found = count(published(3), *sights)
    assert getattr(found, fault) == 1
    assert not found.exact


@pytest.mark.parametrize(
    ("sights", "covered"),
    [
        ((1, 2, 3), 0),
        ((1, UNKNOWN, 2, 3), 0),
        ((1, UNKNOWN, 3), 1),
        ((1, UNKNOWN), 2),
        ((UNKNOWN, 3), 2),
        ((1, Gap("slow_client", 1), 3), 1),
        ((Gap("slow_client", 1), Gap("slow_client", 1), 3), 2),
        ((Gap("slow_client", 1), UNKNOWN, 3), 2),
    ],
)
def test_what_a_gap_stands_for_is_covered(sights: tuple[int | Gap, ...], covered: int) -> None:
    found = count(published(3), *sights)
    assert found.exact
    assert found.covered == covered
    assert found.gaps == sum(isinstance(sight, Gap) for sight in sights)


def test_an_attempt_that_nobody_knows_of_may_be_seen_once_or_not() -> None:
    ledger = published(1)
    unsure = ledger.attempt("a")
    assert count(ledger, 1).exact
    assert count(ledger, 1, unsure).exact
    assert count(ledger, 1, unsure, unsure).duplicated == 1
    assert count(ledger, 1, Gap("slow_client", 1)).exact


def test_an_attempt_for_somebody_else_must_not_be_seen() -> None:
    ledger = published(1)
    assert count(ledger, 1, ledger.attempt("b")).foreign == 1
    other = ledger.attempt("b")
    ledger.accept(other, "stream")
    assert count(ledger, 1, other).foreign == 1


def test_the_ways_into_the_service_have_an_order_each() -> None:
    ledger = Ledger(["a"])
    channel, stream, later = (ledger.attempt(EVERYBODY) for _ in range(3))
    ledger.accept(channel, "channel")
    ledger.accept(stream, "stream")
    ledger.accept(later, "stream")
    assert count(ledger, stream, channel, later).exact
    assert count(ledger, stream, later, channel).exact
    assert count(ledger, later, channel, stream).disordered == 1
    assert count(ledger, UNKNOWN, later).covered == 2


def test_replayed_and_live_are_told_apart() -> None:
    sights: list[Sight] = [Seen(1), Seen(2, replayed=True), Seen(3)]
    found = published(3).count("a", sights)
    assert (found.live, found.replayed) == (2, 1)


@given(st.lists(st.integers(1, 6) | st.just(UNKNOWN), max_size=12))
def test_what_is_exact_adds_up_and_says_nothing_twice(sights: list[int | Gap]) -> None:
    found = count(published(6), *sights)
    seen = [sight for sight in sights if isinstance(sight, int)]
    assert found.published == 6
    assert found.exact == (not found.faults)
    assert found.duplicated == len(seen) - len(set(seen))
    if found.exact:
        assert seen == sorted(set(seen))
        assert found.live + found.covered == 6
    total = Count()
    total.add(found)
    assert dataclasses.asdict(total) == dataclasses.asdict(found)
