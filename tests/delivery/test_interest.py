"""What streams follow → what is subscribed: in whatever order things happen, nothing is missed in silence."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.inside import new_history, new_resumer
from trio_sse.counters import Counters
from trio_sse.delivery.connection import Common, Connection
from trio_sse.delivery.history import History
from trio_sse.delivery.interest import LINGER_SECONDS, WINDOW, Interest, Shard, Since
from trio_sse.delivery.targets import ALL, Target, each, followed, topic


def stream_of(*targets: Target) -> Connection:
    history = new_history()
    common = Common(Counters(), history, new_resumer(history), 10)
    return Connection(targets[0] if len(targets) == 1 else tuple(sorted(targets)), common)


class World:
    """An interest, the shard of each target, and what was announced."""

    def __init__(self, shards: int = 1) -> None:
        self.now = 0.0
        self.history: History = new_history(clock=lambda: self.now)
        self.shards = [Shard() for _ in range(shards)]
        self.believed: dict[Target, int] = {}
        self.gaps: list[set[Target]] = []
        self.interest = Interest(self.history, self.shard_of, self.announce)
        self.begun: list[Connection] = []
        self.interest.followed(ALL)

    def shard_of(self, target: Target) -> Shard:
        return self.shards[self.believed.get(target, 0)]

    def announce(self, reason: str, targets: Iterable[Target]) -> None:
        assert reason == "redis_reconnected"
        self.gaps.append(set(targets))

    def follow(self, *targets: Target) -> Connection:
        """A stream that is the only one to follow these."""
        connection = stream_of(*targets)
        for target in targets:
            self.interest.followed(target)
        self.ask(connection)
        return connection

    def ask(self, connection: Connection) -> None:
        self.interest.when_subscribed(connection, lambda: self.begun.append(connection))

    def leave(self, connection: Connection) -> None:
        for target in each(connection.follows):
            self.interest.unfollowed(target)
        self.interest.forget(connection)

    def confirm(self, number: int = 0) -> None:
        """All that is asked for, and whatever that leads to."""
        shard = self.shards[number]
        while shard.take_queue(WINDOW) or shard.asked:
            for target in list(shard.asked):
                self.interest.confirmed(shard, target)

    def up(self, number: int = 0) -> None:
        self.interest.link_up(self.shards[number])
        self.confirm(number)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.interest.expire()


@pytest.fixture
def world() -> World:
    world = World()
    world.up()
    return world


def test_a_stream_begins_when_all_it_follows_is_confirmed(world: World) -> None:
    (shard,) = world.shards
    ann = world.follow("ann", topic("news"))
    assert shard.changed.is_set()
    assert shard.take_queue(9) == ["ann", topic("news")]
    world.interest.confirmed(shard, "ann")
    assert world.begun == []
    world.interest.confirmed(shard, topic("news"))
    assert world.begun == [ann]
    assert world.gaps == []


def test_what_is_subscribed_lets_a_stream_begin_at_once(world: World) -> None:
    world.follow("ann")
    world.confirm()
    second = stream_of("ann")
    world.ask(second)
    assert world.begun[-1] is second


def test_a_page_that_is_loaded_again_costs_nothing_and_loses_nothing(world: World) -> None:
    (shard,) = world.shards
    world.leave(world.follow("ann"))
    world.confirm()
    since = world.interest.since("ann")
    world.wait(LINGER_SECONDS[0] - 1)
    again = world.follow("ann")
    assert not shard.queue
    assert world.begun[-1] is again
    assert world.interest.since("ann") == since
    world.wait(1000)
    assert not shard.drop


def test_what_nobody_follows_is_left_later_and_not_all_at_once(world: World) -> None:
    (shard,) = world.shards
    streams = [world.follow(f"u{number}") for number in range(1000)]
    world.confirm()
    for stream in streams:
        world.leave(stream)
    world.wait(LINGER_SECONDS[0] - 1)
    assert not shard.drop
    left = []
    for _ in range(12):
        world.wait(1)
        left.append(len(shard.take_drop(10_000)))
    assert sum(left) == 1000
    assert max(left) < 200
    assert len(world.interest) == 1  # ALL
    assert world.interest.since("u1") == world.interest.since("nobody")


def test_no_more_is_taken_than_was_asked_for(world: World) -> None:
    (shard,) = world.shards
    for number in range(5):
        world.follow(f"u{number}")
    assert shard.take_queue(2) == ["u0", "u1"]
    assert shard.take_queue(9) == ["u2", "u3", "u4"]
    assert shard.take_queue(9) == []
    for stream in list(world.begun):
        world.leave(stream)
    for target in ("u0", "u1", "u2"):
        world.interest.confirmed(shard, target)
        world.leave(world.begun[-1])
    world.wait(100)
    first = shard.take_drop(2)
    assert len(first) == 2
    assert {*first, *shard.take_drop(2)} == {"u0", "u1", "u2"}


def test_only_so_many_are_asked_for_at_a_time_and_confirmations_let_more_go(world: World) -> None:
    (shard,) = world.shards
    for number in range(WINDOW + 5):
        world.follow(f"u{number}")
    assert len(shard.take_queue(2 * WINDOW)) == WINDOW
    shard.changed.clear()
    assert shard.take_queue(9) == []
    for target in list(shard.asked)[: WINDOW // 2]:
        world.interest.confirmed(shard, target)
    assert shard.changed.is_set()
    assert len(shard.take_queue(9)) == 5


def test_without_redis_a_stream_does_not_wait_and_is_told_later() -> None:
    world = World()
    ann = world.follow("ann")
    assert world.begun == [ann]
    assert world.interest.since("ann") == Since(0, 0.0)
    world.interest.link_up(world.shards[0])
    assert world.shards[0].take_queue(9) == [ALL, "ann"]
    world.interest.confirmed(world.shards[0], "ann")
    assert world.gaps == []
    world.interest.confirmed(world.shards[0], ALL)
    assert world.gaps == [{ALL, "ann"}]


def test_when_nobody_was_there_nobody_is_told() -> None:
    world = World()
    world.up()
    assert world.gaps == []


def test_one_who_waits_when_redis_is_lost_waits_no_longer(world: World) -> None:
    (shard,) = world.shards
    ann, bob = world.follow("ann"), world.follow("bob")
    shard.take_queue(1)
    world.interest.link_lost(shard)
    assert world.begun == [ann, bob]
    world.up()
    assert world.gaps == [{ALL, "ann", "bob"}]
    assert world.begun == [ann, bob]


def test_nobody_is_told_before_all_are_back(world: World) -> None:
    (shard,) = world.shards
    names = [f"u{number}" for number in range(50)]
    for name in names:
        world.follow(name)
    world.confirm()
    world.interest.link_lost(shard)
    world.interest.link_up(shard)
    taken = shard.take_queue(100)
    for target in taken[:-1]:
        world.interest.confirmed(shard, target)
    assert world.gaps == []
    world.interest.link_lost(shard)  # once more, in the middle of it
    world.up()
    assert world.gaps == [{ALL, *names}]
    assert not shard.owed
    assert not shard.back


@pytest.mark.parametrize("how", ["in the queue", "asked for"])
def test_one_who_leaves_for_good_before_all_are_back_holds_up_nobody(world: World, how: str) -> None:
    """Else the others would never be told."""
    (shard,) = world.shards
    world.follow("ann")
    bob = world.follow("bob")
    world.confirm()
    world.interest.link_lost(shard)
    world.interest.link_up(shard)
    if how == "asked for":
        shard.take_queue(9)
    world.leave(bob)
    world.wait(100)
    world.confirm()
    assert world.gaps == [{ALL, "ann"}]
    assert not shard.owed


def test_one_who_left_before_a_new_master_came_holds_up_nobody() -> None:
    world = World(2)
    world.up(0)
    world.follow("ann")
    bob = world.follow("bob")
    world.confirm()
    world.believed = {"ann": 1, "bob": 1}
    for target in ("ann", "bob"):
        world.interest.moved(world.shards[0], target)
    world.leave(bob)
    world.up(1)
    assert world.gaps == [{"ann"}]
    assert not world.shards[1].owed


def test_an_id_from_before_the_subscription_is_not_known(world: World) -> None:
    (shard,) = world.shards
    world.history.append(("ann",), lambda _: b"")
    before = world.history.latest
    world.follow("ann")
    world.confirm()
    since = world.interest.since("ann")
    assert since.sequence > before
    assert world.interest.since(("ann", "bob")) == since  # bob is told when he is subscribed
    world.now = 5
    world.interest.link_lost(shard)
    world.up()
    later = world.interest.since("ann")
    assert later.sequence > since.sequence
    assert later == Since(later.sequence, 5)


def test_the_youngest_subscription_counts(world: World) -> None:
    ann = world.follow("ann")
    world.confirm()
    world.now = 7
    world.follow("bob")
    world.confirm()
    bob = world.interest.since("bob")
    assert world.interest.since(("ann", "bob")) == bob
    assert bob.at == 7
    world.interest.forget(ann)


def test_whether_a_message_comes_here(world: World) -> None:
    world.follow("ann")
    assert world.interest.hears(None)
    assert not world.interest.hears(["ann"])
    world.confirm()
    assert world.interest.hears(["bob", "ann"])
    assert not world.interest.hears(["bob"])


def test_one_who_comes_back_while_redis_is_asked_is_asked_for_once(world: World) -> None:
    (shard,) = world.shards
    ann = world.follow("ann")
    shard.take_queue(9)
    world.leave(ann)
    world.wait(100)
    world.follow("ann")
    assert not shard.queue
    world.interest.confirmed(shard, "ann")
    assert not shard.drop
    assert list(shard.has) == [ALL, "ann"]


def test_one_who_comes_back_before_he_was_left_is_not_left(world: World) -> None:
    (shard,) = world.shards
    world.leave(world.follow("ann"))
    world.confirm()
    world.wait(100)
    assert list(shard.drop) == ["ann"]
    world.follow("ann")
    assert not shard.drop
    assert list(shard.queue) == ["ann"]


def test_a_target_that_moves_is_told_to_its_own_followers_alone() -> None:
    world = World(2)
    world.up(0)
    world.up(1)
    world.follow("ann")
    world.follow("bob")
    world.confirm()
    world.believed["ann"] = 1
    world.interest.moved(world.shards[0], "ann")
    assert world.gaps == []
    world.confirm(1)
    assert world.gaps == [{"ann"}]


@pytest.mark.parametrize("subscribed", [True, False])
def test_one_that_moved_twice_is_still_told(subscribed: bool) -> None:
    """By way of a shard that nobody serves: the slot was nobody's for a while."""
    world = World(3)
    world.up(0)
    world.up(2)
    ann = world.follow("ann")
    if subscribed:
        world.confirm()
    for shard in (1, 2):
        before = world.shard_of("ann")
        world.believed["ann"] = shard
        world.interest.moved(before, "ann")
    assert world.begun == [ann]
    world.confirm(2)
    assert world.gaps == [{"ann"}]


def test_a_confirmation_that_comes_after_the_target_moved_is_taken_back() -> None:
    world = World(2)
    world.up(0)
    world.up(1)
    ann = world.follow("ann")
    world.shards[0].take_queue(9)
    world.believed["ann"] = 1  # and nobody has said `moved` yet
    world.interest.confirmed(world.shards[0], "ann")
    assert list(world.shards[0].drop) == ["ann"]
    assert world.begun == []
    world.interest.moved(world.shards[0], "ann")
    world.confirm(1)
    assert world.begun == [ann]
    world.interest.moved(world.shards[0], "ann")  # told again
    assert not world.shards[1].queue
    assert "ann" in world.shards[1].has


def test_a_new_link_does_not_ask_for_what_moved_away_meanwhile() -> None:
    world = World(2)
    world.up(0)
    world.up(1)
    world.follow("ann")
    world.confirm()
    world.interest.link_lost(world.shards[0])
    world.believed["ann"] = 1
    world.interest.link_up(world.shards[0])
    assert list(world.shards[0].queue) == [ALL]
    assert list(world.shards[1].queue) == ["ann"]


def test_what_is_refused_for_now_is_asked_for_again_and_nobody_waits(world: World) -> None:
    (shard,) = world.shards
    ann = world.follow("ann")
    shard.take_queue(9)
    world.interest.refused(shard, "ann")
    assert world.begun == [ann]
    assert shard.refuses
    assert world.gaps == []
    world.confirm()
    assert world.gaps == [{"ann"}]


def test_what_redis_leaves_by_itself_is_asked_for_again(world: World) -> None:
    (shard,) = world.shards
    ann = world.follow("ann")
    world.interest.unsubscribed(shard, "ann")  # not yet: another one of this name
    world.confirm()
    world.interest.unsubscribed(shard, "ann")
    assert list(shard.queue) == ["ann"]
    world.confirm()
    assert world.gaps == [{"ann"}]
    assert world.begun == [ann]


NAMES = ["ann", topic("ann")]
SHARDS = 3
somewhere = st.integers(0, SHARDS - 1)
rounds = st.integers(0, 5)


class Sent(NamedTuple):
    """Of Redis to us, or of us to Redis."""

    what: str
    target: Target
    number: int = 0


class Visitor:
    """A client that comes, leaves, and comes back with the id it has."""

    def __init__(self, follows: tuple[Target, ...]) -> None:
        self.follows = follows
        self.connection: Connection | None = None
        self.waits = False
        self.position: int | None = None
        """None: it has begun never."""
        self.owed: dict[int, Target] = {}
        """Messages that it has to get, or a gap for their target."""


class Interests(RuleBasedStateMachine):
    """Three masters, of which each answers when it likes, and slots that move; one target has one slot."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.history = new_history(clock=lambda: self.now)
        self.shards = [Shard() for _ in range(SHARDS)]
        for shard in self.shards:
            shard.settled = True
        self.owner = dict.fromkeys([*NAMES, ALL], 0)
        self.believed = dict(self.owner)
        self.corrected: set[Target] = set()
        self.losers: list[Shard] = []
        self.refuses = False
        self.linked = [False] * SHARDS
        self.sent: list[deque[Sent]] = [deque() for _ in range(SHARDS)]
        self.said: list[deque[Sent]] = [deque() for _ in range(SHARDS)]
        self.subscribed: list[set[Target]] = [set() for _ in range(SHARDS)]
        self.followers: dict[Target, int] = dict.fromkeys(NAMES, 0)
        self.visitors: list[Visitor] = []
        self.messages = 0
        self.taken: list[tuple[int, int]] = []
        """Sequence and number of each message that this process has."""
        self.interest = Interest(self.history, self.shard_of, self.announce)
        self.interest.followed(ALL)
        self.link_changes(0)
        self.link_changes(1)

    def shard_of(self, target: Target) -> Shard:
        return self.shards[self.believed[target]]

    # Clients.

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=2))
    def come(self, names: set[Target]) -> None:
        visitor = Visitor(tuple(sorted(names)))
        self.visitors.append(visitor)
        self.enter(visitor)

    @precondition(lambda self: self.visitors)
    @rule(which=st.integers(0, 20))
    def come_or_go(self, which: int) -> None:
        visitor = self.visitors[which % len(self.visitors)]
        if visitor.connection is None:
            self.enter(visitor)
        else:
            self.exit(visitor)

    def enter(self, visitor: Visitor) -> None:
        visitor.connection = connection = stream_of(*visitor.follows)
        visitor.waits = True
        for target in visitor.follows:
            self.followers[target] += 1
            if self.followers[target] == 1:
                self.interest.followed(target)

        def begin() -> None:
            assert visitor.waits
            visitor.waits = False
            since = self.interest.since(connection.follows)
            if visitor.position is None or since.sequence > visitor.position:
                visitor.owed.clear()  # it begins now, or is told that its id is too old
            else:
                for sequence, number in self.taken:
                    if sequence > visitor.position:
                        visitor.owed.pop(number, None)
            visitor.position = self.history.latest

        self.interest.when_subscribed(connection, begin)

    def exit(self, visitor: Visitor) -> None:
        connection, visitor.connection = visitor.connection, None
        assert connection is not None
        for target in visitor.follows:
            self.followers[target] -= 1
            if not self.followers[target]:
                self.interest.unfollowed(target)
        self.interest.forget(connection)
        if not visitor.waits:
            visitor.position = self.history.latest
        visitor.waits = False

    def announce(self, reason: str, targets: Iterable[Target]) -> None:
        targets = set(targets)
        for target in targets:
            here = self.shard_of(target)
            assert self.losers or target in here.has, "not all are back"
        for visitor in self.visitors:
            if visitor.connection is not None:
                for number, target in list(visitor.owed.items()):
                    if target in targets:
                        del visitor.owed[number]

    @rule(seconds=st.sampled_from([1, 9, 30]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.interest.expire()

    # Redis.

    @rule(name=st.sampled_from([*NAMES, ALL]))
    def publish(self, name: Target) -> None:
        target = name
        self.messages += 1
        for visitor in self.visitors:
            if visitor.position is not None and (target == ALL or target in visitor.follows):
                visitor.owed[self.messages] = target
        number = self.owner[target]
        if target in self.subscribed[number]:
            self.said[number].append(Sent("message", target, self.messages))

    @rule(name=st.sampled_from([*NAMES, ALL]), to=somewhere)
    def slot_moves(self, name: Target, to: int) -> None:
        target, number = name, self.owner[name]
        self.owner[target] = to
        if to != number and target in self.subscribed[number]:
            self.subscribed[number].remove(target)
            self.said[number].append(Sent("unsubscribed", target))

    @rule(refuses=st.booleans())
    def slots_are_nobodys(self, refuses: bool) -> None:
        self.refuses = refuses

    @rule(number=somewhere)
    def link_changes(self, number: int) -> None:
        shard = self.shards[number]
        self.sent[number].clear()
        self.said[number].clear()
        self.subscribed[number].clear()
        self.linked[number] = not self.linked[number]
        if self.linked[number]:
            self.interest.link_up(shard)
        else:
            self.interest.link_lost(shard)

    @rule(times=rounds)
    def all_goes_on(self, times: int) -> None:
        for _ in range(times):
            for number in range(SHARDS):
                self.send(number)
                self.redis_works(number)
                self.read(number)

    @rule(number=somewhere)
    def send(self, number: int) -> None:
        shard = self.shards[number]
        if self.linked[number]:
            shard.refuses = False
            self.sent[number].extend(Sent("unsubscribe", target) for target in shard.take_drop(100))
            self.sent[number].extend(Sent("subscribe", target) for target in shard.take_queue(100))

    @rule(number=somewhere, times=rounds)
    def redis_works(self, number: int, times: int = 1) -> None:
        for _ in range(min(times, len(self.sent[number]))):
            what, target, _ = self.sent[number].popleft()
            if self.refuses:
                answer = "down"
            elif self.owner[target] != number:
                answer = "moved"
            elif what == "subscribe":
                self.subscribed[number].add(target)
                answer = "subscribed"
            else:
                self.subscribed[number].discard(target)
                answer = "unsubscribed"
            self.said[number].append(Sent(answer, target, self.owner[target]))

    @rule(number=somewhere, times=rounds)
    def read(self, number: int, times: int = 1) -> None:
        self.history.begin_read()
        for _ in range(min(times, len(self.said[number]))):
            self.read_one(number)
        self.history.end_read()

    def read_one(self, number: int) -> None:
        shard, interest = self.shards[number], self.interest
        answer, target, to = self.said[number].popleft()
        first = next(iter(shard.asked), None)
        if answer == "message":
            self.message(target, to)
        elif answer == "subscribed":
            interest.confirmed(shard, target)
        elif answer == "unsubscribed":
            interest.unsubscribed(shard, target)
        elif first is None:
            pass
        elif answer == "down":
            interest.refused(shard, first)
        elif first == target:  # a slot has one target here
            self.moved(shard, target, to)

    def moved(self, shard: Shard, target: Target, to: int) -> None:
        """As the subscriber to a cluster does."""
        if self.shard_of(target) is shard:
            if target in self.corrected:
                self.interest.refused(shard, target)
                return
            self.corrected.add(target)
            self.losers.append(shard)
            shard.settled = False
            self.believed[target] = to
        self.interest.moved(shard, target)

    def message(self, target: Target, number: int) -> None:
        sequence = self.history.skip()
        self.taken.append((sequence, number))
        for visitor in self.visitors:
            if visitor.connection is not None and not visitor.waits:
                visitor.owed.pop(number, None)

    @rule()
    def look(self) -> None:
        """Who serves what? The rest follows, while other things happen, but no other look."""
        if self.losers:
            return
        self.corrected.clear()
        for target, number in self.owner.items():
            if self.believed[target] != number:
                self.losers.append(self.shards[self.believed[target]])
                self.losers[-1].settled = False
        self.believed = dict(self.owner)

    @precondition(lambda self: self.losers)
    @rule()
    def follow_slots(self) -> None:
        shard = self.losers.pop()
        for target in [*shard.has, *shard.asked, *shard.queue]:
            if self.shard_of(target) is not shard:
                self.interest.moved(shard, target)
        shard.settled = shard not in self.losers

    # What is always so.

    def places(self, target: Target) -> int:
        return sum(
            target in places for shard in self.shards for places in (shard.has, shard.asked, shard.queue)
        )

    @invariant()
    def what_is_followed_has_one_place(self) -> None:
        if not self.losers:
            for target in [ALL, *NAMES]:
                if target == ALL or self.followers[target]:
                    assert self.places(target) == 1
                    shard = self.shard_of(target)
                    assert target in {**shard.has, **shard.asked, **shard.queue}
                    assert target not in shard.drop

    @invariant()
    def whoever_waits_waits_for_something(self) -> None:
        if self.losers:
            return
        for visitor in self.visitors:
            if visitor.waits:
                shards = [(target, self.shard_of(target)) for target in (*visitor.follows, ALL)]
                assert any(
                    shard.up and (target in shard.asked or target in shard.queue) for target, shard in shards
                )

    @invariant()
    def those_that_are_back_are_owed(self) -> None:
        for shard in self.shards:
            assert shard.back.keys() <= shard.owed.keys()
            assert shard.back.keys() <= shard.has.keys()
            assert not shard.owed or shard.back.keys() != shard.owed.keys()

    def settle(self) -> None:
        self.refuses = False
        for number in range(SHARDS):
            if not self.linked[number]:
                self.link_changes(number)
        for _ in range(1000):
            while self.losers:
                self.follow_slots()
            self.look()
            while self.losers:
                self.follow_slots()
            before = self.now
            for number in range(SHARDS):
                self.send(number)
                self.redis_works(number, 1000)
                self.read(number, 1000)
            assert before == self.now
            if not self.losers and not any(
                (shard.queue, shard.asked, shard.drop) != ({}, {}, {}) for shard in self.shards
            ):
                return
        raise AssertionError("it never comes to rest")

    def teardown(self) -> None:
        self.settle()
        for visitor in self.visitors:
            assert not visitor.waits
            if visitor.connection is None:
                self.enter(visitor)
        self.settle()
        for visitor in self.visitors:
            assert not visitor.waits
            assert visitor.owed == {}, "missed in silence"
        here = {target for target in NAMES if self.followers[target]} | {ALL}
        for target in here:
            assert target in self.subscribed[self.owner[target]]
        for visitor in self.visitors:
            self.exit(visitor)
        self.time_passes(30)
        self.settle()
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        assert set().union(*self.subscribed) == {ALL}
        self.interest.unfollowed(ALL)
        self.time_passes(30)
        held: Any = vars(self.interest)
        assert [name for name, value in held.items() if isinstance(value, dict) and value] == []
        for shard in self.shards:
            kept = (shard.queue, shard.asked, shard.has, shard.owed, shard.back)
            assert not any(kept)


def walk(chance: random.Random, steps: int) -> None:
    """Longer than Hypothesis goes, with the rules that lead somewhere more often than others."""
    world = Interests()

    def invariants() -> None:
        world.what_is_followed_has_one_place()
        world.whoever_waits_waits_for_something()
        world.those_that_are_back_are_owed()

    def some() -> int:
        return chance.randrange(SHARDS)

    def name() -> Target:
        return chance.choice([*NAMES, ALL])

    rules: list[tuple[int, Callable[[], object]]] = [
        (3, lambda: world.come(set(chance.sample(NAMES, chance.randint(1, 2)))) if few() else None),
        (6, lambda: world.come_or_go(chance.randrange(20)) if world.visitors else None),
        (2, lambda: world.time_passes(chance.choice([1, 9, 30]))),
        (8, lambda: world.publish(name())),
        (3, lambda: world.slot_moves(name(), some())),
        (1, lambda: world.slots_are_nobodys(chance.random() < 0.3)),
        (2, lambda: world.link_changes(some())),
        (6, lambda: world.send(some())),
        (8, lambda: world.redis_works(some(), chance.randint(1, 3))),
        (8, lambda: world.read(some(), chance.randint(1, 3))),
        (2, lambda: world.all_goes_on(chance.randint(1, 6))),
        (2, world.look),
        (4, lambda: world.follow_slots() if world.losers else None),
    ]

    def few() -> bool:
        return len(world.visitors) < 5

    weights = [weight for weight, _ in rules]
    for _, act in chance.choices(rules, weights, k=steps):
        act()
        invariants()
        if chance.random() < 0.01:
            world.settle()
            invariants()
    world.teardown()


@pytest.mark.parametrize("seed", range(60))
def test_a_long_walk_leads_to_no_loss_in_silence(seed: int) -> None:
    walk(random.Random(seed), 300)


TestInterests: Callable[..., Any] = Interests.TestCase
TestInterests.settings = hypothesis_settings(stateful_step_count=40)  # type: ignore[attr-defined]


def test_a_user_and_a_topic_of_one_name_are_two(world: World) -> None:
    world.follow(*each(followed("ann", ["ann"])))
    assert len(world.shards[0].queue) == 2


def test_what_moved_to_a_master_that_is_connected_later_is_told() -> None:
    """A replica that takes over."""
    world = World(2)
    world.up(0)
    world.follow("ann")
    world.confirm()
    world.interest.link_lost(world.shards[0])
    world.believed = {"ann": 1}
    world.interest.moved(world.shards[0], "ann")
    world.up(1)
    assert world.gaps == [{"ann"}]


def test_an_id_from_after_the_confirmation_and_before_the_gap_was_told_is_too_old(world: World) -> None:
    """Whoever leaves in between was told nothing of what it missed."""
    (shard,) = world.shards
    world.follow("ann")
    world.follow("bob")
    world.confirm()
    world.interest.link_lost(shard)
    world.interest.link_up(shard)
    _all, ann, bob = shard.take_queue(9)
    world.interest.confirmed(shard, _all)
    world.interest.confirmed(shard, ann)
    world.history.append(("ann",), lambda _: b"")
    id_of_who_leaves = world.history.latest
    assert world.interest.since("ann").sequence <= id_of_who_leaves
    world.interest.confirmed(shard, bob)
    assert world.gaps == [{ALL, "ann", "bob"}]
    assert world.interest.since("ann").sequence > id_of_who_leaves


def test_one_that_was_taken_for_refused_and_is_confirmed_is_not_asked_for_again(world: World) -> None:
    """CLUSTERDOWN does not say for which channel: it was one that was to be left."""
    (shard,) = world.shards
    ann = world.follow("ann")
    shard.take_queue(9)
    world.interest.refused(shard, "ann")
    world.interest.confirmed(shard, "ann")
    assert not shard.queue
    assert "ann" in shard.has
    assert world.begun == [ann]
    assert world.gaps == [{"ann"}]


def test_a_second_confirmation_makes_nothing_younger(world: World) -> None:
    (shard,) = world.shards
    world.follow("ann")
    world.confirm()
    since = world.interest.since("ann")
    world.interest.confirmed(shard, "ann")
    assert world.interest.since("ann") == since
    assert not shard.drop
