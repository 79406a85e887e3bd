"""Who serves which slot, as nodes say and masters correct."""

from __future__ import annotations

import pytest
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import (
    SLOTS,
    ClusterMap,
    Range,
    address_of,
    ranges_of,
    redirected,
    replicas_of,
)
from trio_sse.delivery.targets import topic

A, B, C = ("a", 1), ("b", 2), ("c", 3)
HALF = SLOTS // 2
CHANNELS = Channels("n")


def slot(target: str) -> int:
    return key_slot(CHANNELS.of(target))


LOW = next(str(number) for number in range(100) if slot(str(number)) < HALF)
HIGH = next(str(number) for number in range(100) if slot(str(number)) >= HALF)


@pytest.fixture
def known() -> ClusterMap:
    found = ClusterMap(CHANNELS.of)
    found.learn([Range(0, HALF - 1, A), Range(HALF, SLOTS - 1, B)])
    return found


def test_a_target_is_where_the_slot_of_its_channel_is(known: ClusterMap) -> None:
    assert known.shard_of(LOW) is known.masters[A]
    assert known.shard_of(HIGH) is known.masters[B]
    assert known.address_of(CHANNELS.of(LOW)) == A
    assert known.address_of(CHANNELS.of(HIGH)) == B


def test_a_node_that_may_be_wrong_is_believed_only_in_what_it_says(known: ClusterMap) -> None:
    low, high = known.shard_of(LOW), known.shard_of(HIGH)
    assert known.learn([], in_doubt=True) == set()
    assert known.learn([Range(0, HALF - 1, C)], in_doubt=True) == {low}
    assert known.shard_of(LOW) is known.masters[C]
    assert known.shard_of(HIGH) is high


def test_what_is_in_braces_decides_alone() -> None:
    known = ClusterMap(CHANNELS.of)
    known.learn([Range(number, number, (str(number), 1)) for number in range(SLOTS)])
    alike = [topic("a{x}b"), topic("c{x}"), "{x}"]
    assert len({id(known.shard_of(target)) for target in alike}) == 1
    assert known.shard_of("a{}") is not known.shard_of("b{}")


def test_before_anybody_was_asked_nobody_serves_anything() -> None:
    known = ClusterMap(CHANNELS.of)
    assert known.shard_of(LOW) is known.shard_of(HIGH)
    assert known.address_of(b"x") is None
    nowhere = known.shard_of(LOW)
    assert known.learn([Range(0, SLOTS - 1, A)]) == {nowhere}
    assert known.shard_of(LOW) is known.masters[A]


def test_a_master_that_stays_keeps_its_shard_and_losers_are_named(known: ClusterMap) -> None:
    a, b = known.masters[A], known.masters[B]
    assert known.learn([Range(0, HALF - 1, A), Range(HALF, SLOTS - 1, B)]) == set()
    assert known.learn([Range(0, SLOTS - 1, A)]) == {b}
    assert known.masters == {A: a}
    assert known.learn([Range(0, HALF - 1, C), Range(HALF, SLOTS - 1, A)]) == {a}
    assert known.shard_of(HIGH) is a


def test_slots_of_nobody_are_on_a_shard_of_their_own(known: ClusterMap) -> None:
    a, b = known.masters[A], known.masters[B]
    assert known.learn([Range(0, HALF - 1, A)]) == {b}
    assert known.shard_of(HIGH) not in (a, b)
    assert known.address_of(CHANNELS.of(HIGH)) is None


def test_what_a_master_corrects_counts_at_once_and_it_has_lost_something(known: ClusterMap) -> None:
    """Whoever looks next takes care of what else was there: its link may be gone by then."""
    a, b = known.masters[A], known.masters[B]
    known.correct(slot(LOW), B)
    assert known.shard_of(LOW) is b
    known.correct(slot(HIGH), C)
    assert known.shard_of(HIGH) is known.masters[C]
    assert known.corrected == {slot(LOW), slot(HIGH)}
    assert known.learn([Range(0, SLOTS - 1, B)]) >= {a, b}
    known.learn([Range(0, SLOTS - 1, B)])
    assert known.learn([Range(0, SLOTS - 1, B)]) == set()


def test_whoever_does_not_know_of_a_correction_yet_does_not_undo_it_at_once(known: ClusterMap) -> None:
    """Nor is the new master left, if it has no other slots."""
    stale = [Range(0, HALF - 1, A), Range(HALF, SLOTS - 1, B)]
    a = known.masters[A]
    known.correct(slot(LOW), C)
    c = known.masters[C]
    assert known.learn(stale) == {a}
    assert known.shard_of(LOW) is c
    assert known.masters[C] is c
    assert known.learn(stale) == {c}  # it was wrong
    assert known.shard_of(LOW) is a
    assert C not in known.masters


def test_the_answer_to_cluster_slots_is_read() -> None:
    replica = [b"r", 9, b"id", []]
    answer = [
        [0, 5, [b"10.0.0.1", 7000, b"id", []], replica, replica],
        [6, 7, [b"", 7001, b"id", []]],
        [8, 9, [None, 7002, b"id", []], replica],
        [10, 11, [b"?", 7003, b"id", []]],
    ]
    assert ranges_of(answer, ("asked", 1)) == [
        Range(0, 5, ("10.0.0.1", 7000)),
        Range(6, 7, ("asked", 7001)),
        Range(8, 9, ("asked", 7002)),
        Range(10, 11, ("asked", 7003)),
    ]
    assert ranges_of([], ("asked", 1)) == []
    assert replicas_of(answer, ("asked", 1)) == {
        ("10.0.0.1", 7000): {("r", 9)},
        ("asked", 7001): set(),
        ("asked", 7002): {("r", 9)},
        ("asked", 7003): set(),
    }


def test_a_node_without_a_name_is_at_the_host_that_was_asked() -> None:
    assert address_of("", 7000, ("asked", 1)) == ("asked", 7000)
    assert address_of("named", 7000, ("asked", 1)) == ("named", 7000)


@pytest.mark.parametrize("host", ["", "?"])
def test_a_redirection_without_a_name_leads_to_the_host_that_was_asked(host: str) -> None:
    moved = MovedError(f"5 {host}:7000")
    assert redirected(moved, ("asked", 1)) == ("asked", 7000)
    assert redirected(moved, None) == ("", 7000), "a link is opened to the host of the settings"
    assert redirected(AskError("5 10.0.0.1:7000"), ("asked", 1)) == ("10.0.0.1", 7000)
