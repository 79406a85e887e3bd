"""What is kept for those who come back, next to a plain list that does the same."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.inside import PROCESS, new_history
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History, _Shelf
from trio_sse.delivery.targets import topic

USERS = ("ann", "bob", "cyd")
MESSAGES, SECONDS, MAX_BYTES = 50, 50, 40_000
"""Bounds so narrow that each of them counts."""
BESIDE, INDEX = 290, 240
"""What a message is taken to cost beside its frame, for each of its users."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def add(history: History, *users: str, frame: bytes = b"", entry: EntryId | None = None) -> str:
    """A message for `users`, or everybody's. Returns its id, which is its frame as well."""
    return history.append(users or None, lambda id: frame or id.encode() + b" ", entry=entry)[0]  # noqa: A006


def same(frame: bytes, _: str) -> bytes:
    return frame


def pages(history: History, user: str, after: int, max_bytes: int = 1) -> list[bytes]:
    found = []
    while after < history.latest:
        page, through, *_ = history.page(user, after, max_bytes)
        assert through > after
        found.append(page)
        after = through
    return found


@dataclass
class Message:
    number: int
    users: tuple[str, ...] | None
    frame: bytes
    entry: EntryId | None
    position: str
    until: float
    own: bool


@dataclass
class Naive:
    """The same by looking at every message ever added."""

    messages: list[Message] = field(default_factory=list)
    floor: int = 0
    read: dict[int, EntryId] = field(default_factory=lambda: {0: (0, 0)})
    """The entry of the stream that was read last when each number was given."""
    channel_since: int | None = None

    @property
    def latest(self) -> int:
        return max(self.read)

    def kept(self) -> list[Message]:
        return [message for message in self.messages if message.number > self.floor]

    def let_go(self, now: float) -> None:
        while kept := self.kept():
            size = sum(
                len(m.frame) + BESIDE + sum(INDEX + sys.getsizeof(user) for user in m.users or ())
                for m in kept
            )
            if len(kept) <= MESSAGES and size <= MAX_BYTES and kept[0].until > now:
                break
            self.floor = kept[0].number

    def of(self, user: str, after: int) -> list[Message]:
        return [m for m in self.kept() if m.number > after and (m.users is None or user in m.users)]


class Histories(RuleBasedStateMachine):
    """Adds, losses and looks at random, and a look at everything after each."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.history = new_history(
            messages=MESSAGES, seconds=SECONDS, max_bytes=MAX_BYTES, clock=self.clock, has_log=True
        )
        self.history.read_up_to((0, 0))
        self.naive = Naive()
        self.entry = 0

    @rule(
        users=st.none() | st.lists(st.sampled_from(USERS), min_size=1, unique=True).map(tuple),
        size=st.integers(0, 3000),
        by_log=st.booleans(),
        own=st.integers(0, 9).map(lambda number: number == 0),
        age=st.floats(0, 40),
        times=st.integers(1, 30),
        one_read=st.booleans(),
    )
    def add(
        self,
        users: tuple[str, ...] | None,
        size: int,
        by_log: bool,
        own: bool,
        age: float,
        times: int,
        one_read: bool,
    ) -> None:
        if one_read:
            self.history.begin_read()
        for _ in range(times):
            self.entry += by_log
            entry = (self.entry, 0) if by_log else None
            number = self.naive.latest + 1
            frame = b"%d:%b\n" % (number, b"x" * size)
            position, _ = self.history.append(
                users, partial(same, frame), entry=entry, age=age, own="redis_reconnected" if own else ""
            )
            self.naive.read[number] = (self.entry, 0)
            if not (by_log or own) and self.naive.channel_since is None:
                self.naive.channel_since = number
            until = self.clock.now + SECONDS - age
            message = Message(number, users, frame, entry, position, until, own)
            self.naive.messages.append(message)
            self.naive.let_go(self.clock.now)
        if one_read:
            self.history.end_read()

    @rule(seconds=st.floats(0, 30))
    def grow_older(self, seconds: float) -> None:
        self.clock.now += seconds
        self.history.evict()
        self.naive.let_go(self.clock.now)

    @precondition(lambda self: self.naive.latest)
    @rule(back=st.integers(0, 20))
    def restart(self, back: int) -> None:
        was_at, self.entry = self.entry, max(0, self.entry - back)
        self.history.restart((self.entry, 0), (was_at, 0))
        self.naive.floor = latest = self.naive.latest
        self.naive.read = {latest: (self.entry, 0)}
        self.naive.messages.clear()

    @invariant()
    def what_is_kept_is_what_the_bounds_allow(self) -> None:
        assert self.history.latest == self.naive.latest
        assert self.history.floor == self.naive.floor
        assert len(self.history) == len(self.naive.kept())

    @invariant()
    def nobody_is_remembered_for_nothing(self) -> None:
        indexed = {user for m in self.naive.kept() for user in (m.users or ("everybody",))}
        assert self.history.indexed == len(indexed)

    @invariant()
    def replays_are_whole(self) -> None:
        floor, latest = self.naive.floor, self.naive.latest
        for user in USERS:
            for after in {floor, (floor + latest) // 2, latest}:
                mine = self.naive.of(user, after)
                expected = [message.frame for message in mine]
                assert self.history.count(user, after) == sum(not message.own for message in mine)
                for size in (1, 2000, 10**9):
                    assert b"".join(pages(self.history, user, after, size)) == b"".join(expected)

    @invariant()
    def the_last_messages_are_found(self) -> None:
        for user in USERS:
            mine = self.naive.of(user, self.naive.floor)
            numbers = [message.number for message in mine if not message.own]
            for count in (1, 3, len(numbers), len(numbers) + 1):
                first = numbers[-count:] if 0 < count <= len(numbers) else [m.number for m in mine if count]
                assert self.history.rewound(user, count) == (first[0] - 1 if first else self.history.latest)

    @invariant()
    def ids_stand_for_places(self) -> None:
        floor, latest = self.naive.floor, self.naive.latest
        if floor:
            assert (self.history.text(floor - 1), self.history.at(floor - 1)) == (None, None)
        for message in self.naive.kept():
            assert self.history.text(message.number) == message.position
        for number in range(floor, latest + 1):
            assert self.history.at(number) == self.naive.read[number]

    @invariant()
    def entries_have_numbers(self) -> None:
        entries = [message for message in self.naive.kept() if message.entry]
        for entry in {(0, 0), (self.entry - 5, 3), (self.entry, 0), (self.entry + 1, 0)}:
            before = [m.number for m in entries if m.entry is not None and m.entry <= entry]
            assert self.history.sequence_of(entry) == max(before, default=self.naive.floor)
        lost = [m.entry for m in self.naive.messages if m.entry and m.number <= self.naive.floor]
        if lost:
            assert self.history.entry_floor == lost[-1]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_ids_count_from_one_and_name_the_process() -> None:
    history = new_history()
    assert history.text(0) == f"{PROCESS}.0"
    assert [add(history, "ann"), add(history)] == [f"{PROCESS}.1", f"{PROCESS}.2"]
    assert history.at(2) is None


def test_with_a_log_an_id_is_the_entry_s_own_until_the_channel_is_used_too() -> None:
    history = new_history(has_log=True)
    assert history.text(0) is None  # nobody has looked at the log yet
    history.read_up_to((7, 0))
    assert history.text(0) == "7-0"
    assert add(history, "ann", entry=(8, 1)) == "8-1"
    assert history.append(None, str.encode, own="redis_reconnected")[0] == "8-1"
    assert add(history, "ann") == f"8-1/{PROCESS}.3"
    assert add(history, "ann", entry=(9, 0)) == f"9-0/{PROCESS}.4"
    assert history.append(None, str.encode, own="redis_reconnected")[0] == f"9-0/{PROCESS}.5"
    assert [history.text(number) for number in (1, 2, 3)] == ["8-1", "8-1", f"8-1/{PROCESS}.3"]
    assert history.text(4) == f"9-0/{PROCESS}.4"


def test_a_user_s_messages_and_everybody_s_come_in_the_order_they_were_published() -> None:
    history = new_history()
    for users in (("ann",), (), ("bob",), ("ann", "bob"), ()):
        add(history, *users)
    numbers = [frame.split(b".")[1] for frame in pages(history, "ann", 0)]
    assert numbers == [b"1 ", b"2 ", b"4 ", b"5 "]
    assert (history.count("ann", 0), history.count("ann", 2), history.count("nobody", 0)) == (4, 2, 2)


def test_a_page_ends_with_the_message_that_makes_it_full_enough() -> None:
    history = new_history()
    for _ in range(5):
        add(history, "ann", frame=b"x" * 10)
    add(history, "bob")
    assert history.page("ann", 0, 20)[:2] == (b"x" * 20, 2)
    assert history.page("ann", 2, 21)[:2] == (b"x" * 30, 6)
    assert history.page("ann", 0, 50)[:2] == (b"x" * 50, 6)  # nothing else is hers: she has come to the end
    assert history.page("cyd", 0, 20)[:2] == (b"", 6)


@pytest.mark.parametrize("bound", ["messages", "seconds", "max_bytes"])
def test_a_bound_of_zero_keeps_nothing(bound: str) -> None:
    history = new_history(**{bound: 0})
    add(history, "ann", entry=(5, 0))
    assert (len(history), history.indexed, history.floor, history.latest) == (0, 0, 1, 1)
    assert history.entry_floor == (5, 0)
    assert history.text(1) == "5-0"
    assert history.count("ann", 0) == 0


def test_the_oldest_goes_when_there_are_too_many() -> None:
    history = new_history(messages=3)
    for number in range(1, 6):
        add(history, "ann", frame=b"%d" % number, entry=(number, 0))
    assert (len(history), history.floor, history.entry_floor) == (3, 2, (2, 0))
    assert history.page("ann", 2)[:2] == (b"345", 5)


def test_the_oldest_goes_when_there_are_too_many_bytes_counting_what_they_cost_beside() -> None:
    history = new_history(max_bytes=100_000)
    for _ in range(100):
        add(history, "ann", frame=b"x" * 10_000)
    assert 5 <= len(history) < 10
    for _ in range(2000):
        add(history, frame=b"x")
    assert len(history) < 1000
    for _ in range(20):  # each of the users has an index of its own
        add(history, *map(str, range(50)), frame=b"x")
    assert history.indexed == 50
    assert len(history) < 10


def test_the_oldest_goes_when_its_time_has_come_counted_from_its_own_age() -> None:
    clock = Clock()
    history = new_history(seconds=10, clock=clock)
    for age in (9.0, 4.0, 0.0):
        history.append(("ann",), lambda _, age=age: b"%d " % age, age=age)  # type: ignore[misc]
    history.append(("bob",), str.encode)
    for now, left in ((0.9, b"9 4 0 "), (1.0, b"4 0 "), (5.9, b"4 0 "), (6.0, b"0 "), (10.0, b"")):
        clock.now = now
        history.evict()
        assert history.page("ann", history.floor)[0] == left
    assert history.indexed == 0


@given(st.lists(st.integers(1, 60), max_size=10))
def test_users_who_are_gone_leave_nothing_behind(counts: list[int]) -> None:
    """Whoever publishes to ever new users must not fill the memory with them."""
    history = new_history(messages=20)
    for round_, count in enumerate(counts):
        for number in range(count):
            add(history, f"{round_}-{number}")
    assert history.indexed == min(20, sum(counts))


def test_what_is_gone_is_swept_away_and_not_only_hidden() -> None:
    history = new_history(messages=10)
    for number in range(10_000):
        add(history, "ann", entry=(number, 0))
    for shelf in (history._shelves["ann"], history._entry_ids):
        assert len(shelf) == 10
        assert len(shelf.entries) < 200


def test_a_restart_forgets_everything_and_counts_on() -> None:
    history = new_history(has_log=True)
    for number in range(1, 5):
        add(history, "ann", entry=(number, 0))
    history.restart((2, 0), (4, 0))
    assert (len(history), history.indexed, history.latest, history.floor) == (0, 0, 4, 4)
    assert (history.last_entry, history.entry_floor, history.sequence_of((1, 0))) == ((2, 0), (2, 0), 4)
    assert history.text(4) == "2-0"
    assert history.text(3) is None
    assert add(history, "ann", entry=(3, 0)) == "3-0"
    assert history.page("ann", 4)[:2] == (b"3-0 ", 5)


def test_an_entry_that_was_read_but_not_kept_counts_as_read() -> None:
    """It could not be delivered to anybody. Whoever comes back behind it need not be told again."""
    history = new_history(has_log=True)
    add(history, "ann", entry=(1, 0))
    history.read_up_to((2, 0))
    assert (history.at(1), history.text(1), history.sequence_of((2, 0))) == ((2, 0), "2-0", 1)
    assert history.entry_floor <= (2, 0)


def test_what_one_read_brought_came_at_one_time_and_is_bounded_when_it_ends() -> None:
    clock = Clock()
    history = new_history(messages=3, seconds=10, clock=clock)
    add(history, "ann")
    history.begin_read()
    clock.now = 5
    for _ in range(4):
        add(history, "ann")
    assert len(history) == 5
    history.end_read()
    assert (len(history), history.floor) == (3, 2)
    clock.now = 10
    history.evict()
    assert len(history) == 0
    add(history, "ann")
    clock.now = 15
    history.evict()
    assert len(history) == 1


def _held(history: History) -> int:
    """The bytes of all messages that can be reached from it."""
    sizes: dict[int, int] = {}
    to_do: list[object] = [history._kept, history._shelves, history._entry_ids]
    seen: set[int] = set()
    while to_do:
        thing = to_do.pop()
        if isinstance(thing, bytes):
            sizes[id(thing)] = len(thing)
        elif id(thing) not in seen:
            seen.add(id(thing))
            to_do += gc.get_referents(thing) if not isinstance(thing, type) else []
    return sum(sizes.values())


@pytest.mark.parametrize("bounds", [{"max_bytes": 100_000}, {"messages": 25}])
def test_of_what_is_gone_nothing_is_held(bounds: dict[str, int]) -> None:
    """One message each for many users in turn: none of them ever has nothing."""
    history = new_history(**bounds)
    for number in range(400):
        add(history, str(number % 10), "all", frame=b"%4d" % number + b"x" * 3996)
        assert _held(history) == 4000 * len(history)
    assert _held(history) <= 100_000


@given(st.lists(st.integers(0, 100), max_size=30))
def test_letting_go_costs_each_message_a_constant(steps: list[int]) -> None:
    """However many are added and let go of in between: a list is swept when half of it is gone."""
    shelf: _Shelf[bytes] = _Shelf()
    added = 0
    for count in steps:
        for _ in range(count):
            added += 1
            shelf.entries.append((added, b""))
        for _ in range(min(count // 2, len(shelf))):
            shelf.drop_oldest()
        assert 2 * shelf.start <= len(shelf.entries)


FOLLOWS = st.frozensets(st.sampled_from(["ann", topic("news"), topic("order")]), min_size=1)


@given(st.lists(FOLLOWS | st.just(frozenset()), max_size=30), FOLLOWS, st.integers(1, 40), st.integers(0, 40))
def test_a_replay_of_several_targets_has_each_message_once_and_in_order(
    published: list[frozenset[str]], targets: frozenset[str], kept: int, after: int
) -> None:
    history = new_history(messages=kept)
    expected = []
    for number, addressed in enumerate(published, 1):
        frame = b"%d " % number
        history.append(tuple(addressed) or None, partial(_encoded, frame))
        if number > after and number > len(published) - kept and (not addressed or addressed & targets):
            expected.append(frame)
    after = max(min(after, history.latest), history.floor)
    follows = tuple(sorted(targets)) if len(targets) > 1 else next(iter(targets))
    assert history.count(follows, after) == len(expected)
    found = []
    while after < history.latest:
        few = mock.patch("trio_sse.delivery.history._FEW", len(published) // 2)  # both ways to merge
        with few:
            page, after, *_ = history.page(follows, after, max_bytes=5)
        found.append(page)
    assert b"".join(found) == b"".join(expected)


def _encoded(frame: bytes, _: str) -> bytes:
    return frame
