"""What Redis is to have of who is here: a write when somebody comes, and one when nobody is left."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sse.delivery.attendance import (
    COUNT_SECONDS,
    FIRST_COUNT_SECONDS,
    GONE,
    PARTITIONS,
    QUIET,
    REGRACE_SECONDS,
    ROUND,
    TELL,
    UNSURE,
    Attendance,
    Change,
    Record,
    Roll,
    partition_of,
)
from trio_sse.delivery.targets import Followed, each, topic

GRACE = 10.0


class Node:
    """Streams of one node, and what Redis was told of them."""

    def __init__(self, grace: float = GRACE) -> None:
        self.now = 1000.0
        self.streams: Counter[Record] = Counter()
        self.roll = Roll(lambda record: self.streams[record], lambda: self.now, grace)

    def opens(self, record: Record = "ann") -> None:
        self.streams[record] += 1
        self.roll.came(record)

    def closes(self, record: Record = "ann") -> None:
        self.streams[record] -= 1
        self.roll.left(record)

    def writes(self) -> list[Change]:
        changes = self.roll.take(500)
        self.roll.written()
        return changes

    def later(self, seconds: float) -> list[Change]:
        self.now += seconds
        return self.writes()


@pytest.fixture
def node() -> Node:
    return Node()


def test_whoever_comes_is_written_at_once_and_after_the_grace_that_nobody_is_left(node: Node) -> None:
    node.opens()
    assert node.roll.changed.is_set()
    assert node.writes() == [Change("ann", 1, TELL)]
    assert node.later(100) == []
    node.closes()
    assert node.later(GRACE - 0.1) == []
    assert node.later(0.2) == [Change("ann", GONE, TELL)]
    assert node.later(100) == []
    assert not node.roll.told


def test_a_reload_costs_nothing(node: Node) -> None:
    node.opens()
    node.writes()
    for _ in range(20):
        node.closes()
        assert node.later(GRACE - 1) == []
        node.opens()
        assert node.later(0.5) == []


def test_whoever_is_gone_before_the_first_write_was_never_there(node: Node) -> None:
    node.opens()
    node.closes()
    assert node.later(GRACE * 2) == []


def test_tabs_of_one_moment_are_one_write_and_later_ones_one_soon_and_then_one_a_minute(node: Node) -> None:
    for _ in range(3):
        node.opens()
    assert node.writes() == [Change("ann", 3, TELL)]
    node.opens()
    node.opens()
    assert node.later(FIRST_COUNT_SECONDS - 0.1) == []
    assert node.later(0.2) == [Change("ann", 5, TELL)]
    written = []
    for _ in range(300):
        node.opens()
        written += node.later(1.0)
    assert 4 <= len(written) <= 300 / COUNT_SECONDS + 1
    assert node.later(COUNT_SECONDS) == [Change("ann", 305, TELL)]
    for _ in range(304):
        node.closes()
    node.opens()
    node.closes()
    assert node.later(COUNT_SECONDS + FIRST_COUNT_SECONDS) == [Change("ann", 1, TELL)]
    assert node.later(1000) == []


def test_a_roll_says_when_it_is_to_be_asked_again(node: Node) -> None:
    assert node.roll.next_due == float("inf")
    node.opens()
    assert node.roll.next_due == node.now
    node.writes()
    assert node.roll.next_due == float("inf")
    node.closes()
    assert node.roll.next_due == node.now + 1


def test_what_had_no_answer_is_written_again_as_unsure(node: Node) -> None:
    node.opens()
    assert node.roll.take(500) == [Change("ann", 1, TELL)]
    node.roll.not_written()
    assert node.writes() == [Change("ann", 1, UNSURE)]
    node.closes()
    node.now += GRACE
    assert node.roll.take(500) == [Change("ann", GONE, TELL)]
    node.roll.not_written()
    assert node.writes() == [Change("ann", GONE, UNSURE)]


def test_a_number_that_had_no_answer_tells_nobody_that_somebody_came(node: Node) -> None:
    node.opens()
    node.writes()
    node.opens()
    node.now += FIRST_COUNT_SECONDS
    assert node.roll.take(500) == [Change("ann", 2, TELL)]
    node.roll.not_written()
    assert node.writes() == [Change("ann", 2, TELL)]


def test_whoever_leaves_while_a_write_is_under_way_has_the_grace(node: Node) -> None:
    node.opens()
    assert node.roll.take(500)
    node.closes()
    node.roll.written()
    assert node.later(GRACE - 0.1) == []
    assert node.later(0.2) == [Change("ann", GONE, TELL)]


def test_whoever_comes_while_its_end_is_written_is_written_at_once(node: Node) -> None:
    node.opens()
    node.writes()
    node.closes()
    node.now += GRACE
    assert node.roll.take(500) == [Change("ann", GONE, TELL)]
    node.opens()
    node.roll.written()
    assert node.writes() == [Change("ann", 1, TELL)]


def test_of_many_a_batch_at_a_time(node: Node) -> None:
    for number in range(1200):
        node.opens(str(number))
    sizes = []
    while changes := node.roll.take(500):
        sizes.append(len(changes))
        node.roll.written()
    assert sizes == [500, 500, 200]
    assert len(node.roll.told) == 1200


def test_after_redis_was_away_all_is_written_anew_and_who_left_meanwhile_leaves(node: Node) -> None:
    for name in ("ann", "bob"):
        node.opens(name)
    node.writes()
    node.closes("bob")
    node.opens("carl")
    node.roll.anew()
    assert sorted(node.writes()) == [
        Change("ann", 1, TELL),
        Change("bob", 0, TELL),
        Change("carl", 1, TELL),
    ]
    assert node.later(GRACE) == [Change("bob", GONE, TELL)]
    node.opens()
    node.closes()
    assert node.later(COUNT_SECONDS) == [], "only once"


def test_a_redis_without_its_data_gets_all_quietly_and_who_left_meanwhile_leaves_from_now_on() -> None:
    node = Node(grace=1.0)
    for name in ("ann", "bob"):
        node.opens(name)
    node.writes()
    node.closes("bob")
    node.now += 100
    node.opens("carl")
    node.roll.wiped()
    assert sorted(node.writes()) == [
        Change("ann", 1, QUIET),
        Change("bob", 0, QUIET),
        Change("carl", 1, TELL),
    ]
    assert node.later(REGRACE_SECONDS - 0.1) == []
    assert node.later(0.2) == [Change("bob", GONE, TELL)]
    node.closes()
    assert node.later(2) == [Change("ann", GONE, TELL)], "it is quiet only once"


def test_each_record_is_written_again_once_in_a_round(node: Node) -> None:
    names = [str(number) for number in range(200)]
    for name in names:
        node.opens(name)
    node.writes()
    seen: Counter[Record] = Counter()
    for _ in range(ROUND):
        node.roll.refresh()
        changes = node.writes()
        assert len(changes) <= 3
        seen.update(change.record for change in changes)
    assert seen == Counter(names)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["opens", "closes", "writes", "fails", "anew", "wiped", "refresh"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([0.0, 1.0, 30.0]),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_in_the_end_redis_has_who_is_here(steps: list[tuple[str, str, float]]) -> None:
    node, redis = Node(), dict[Record, int]()

    def write(*, answered: bool) -> None:
        for change in node.roll.take(500):
            if change.streams == GONE:
                redis.pop(change.record, None)
            else:
                redis[change.record] = change.streams
        if answered:
            node.roll.written()
        else:
            node.roll.not_written()

    for step, name, seconds in steps:
        node.now += seconds
        if step == "opens":
            node.opens(name)
        elif step == "closes" and node.streams[name]:
            node.closes(name)
        elif step in ("writes", "fails"):
            write(answered=step == "writes")
        elif step == "wiped":
            redis.clear()
            node.roll.wiped()
        elif step == "anew":
            node.roll.anew()
        elif step == "refresh":
            node.roll.refresh()
    for _ in range(4):
        node.now += COUNT_SECONDS
        write(answered=True)
    assert redis == node.roll.told == {name: n for name, n in node.streams.items() if n}
    assert node.roll.take(500) == []


class Streams:
    """Streams, and an attendance that hears of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.followers: Counter[str] = Counter()
        self.attendance = Attendance(lambda target: self.followers[target], lambda: self.now, GRACE)

    def opens(self, follows: Followed) -> None:
        self.followers.update(each(follows))
        self.attendance.joined(follows)

    def closes(self, follows: Followed) -> None:
        self.followers.subtract(each(follows))
        self.attendance.left(follows)

    def told(self) -> dict[Record, int]:
        found: dict[Record, int] = {}
        for number, roll in enumerate(self.attendance.rolls):
            roll.take(500)
            roll.written()
            for record in roll.told:
                assert partition_of(record if isinstance(record, str) else record[0]) == number
            found.update(roll.told)
        return found


def test_users_topics_and_users_of_topics_have_records() -> None:
    streams, news, room = Streams(), topic("news"), topic("room")
    ann = tuple(sorted(("ann", news, room)))
    for follows in (ann, ann, "ann", "bob", news):
        streams.opens(follows)
    both: dict[Record, int] = {(news, "ann"): 2, (room, "ann"): 2}
    assert streams.told() == {"ann": 3, "bob": 1, news: 3, room: 2, **both}
    for follows in (ann, ann, news):
        streams.closes(follows)
    streams.now += GRACE
    assert streams.told() == {"ann": 1, "bob": 1}


def test_partitions_are_used_evenly() -> None:
    used = Counter(partition_of(str(number)) for number in range(16_000))
    assert len(used) == PARTITIONS
    assert max(used.values()) < 1.2 * min(used.values())
