"""One link to a master: what is asked for, and whatever may be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, NoPermissionError, TryAgainError

from tests.support.inside import Client, flush_now, joined, new_hub, settings
from trio_sse.broker.channels import Channels
from trio_sse.broker.echoes import Echoes
from trio_sse.broker.shard_link import Parts, ShardLink
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.interest import Interest, Shard
from trio_sse.delivery.messages import with_copy
from trio_sse.delivery.targets import ALL, Target


class Bench:
    """A link that is not connected, and Redis played by the test."""

    def __init__(self, *, clustered: bool = True) -> None:
        self.hub = new_hub()
        self.shard, self.other = Shard(), Shard()
        self.moved_away: set[Target] = set()
        self.gaps: list[set[Target]] = []
        self.moves: list[Target] = []
        self.interest = Interest(self.hub.history, self.shard_of, self.announce)
        parts = Parts(
            settings(), self.hub, Intake(self.hub, 1000), self.interest, Channels(settings().redis_channel)
        )
        self.channels = parts.channels
        self.link = ShardLink(parts, self.shard, address=("a", 7000), moved=self.moved if clustered else None)
        for target in (ALL, "ann", "bob", "cyd"):
            self.interest.followed(target)
        self.interest.link_up(self.shard)
        self.shard.take_queue(10)

    def shard_of(self, target: Target) -> Shard:
        return self.other if target in self.moved_away else self.shard

    def announce(self, _reason: str, targets: Iterable[Target]) -> None:
        self.gaps.append(set(targets))

    def moved(self, link: ShardLink, target: Target, _error: MovedError) -> None:
        self.moves.append(target)
        self.moved_away.add(target)
        self.interest.moved(link.shard, target)

    def subscribed(self, *targets: Target) -> None:
        for target in targets:
            self.link._confirmed([b"ssubscribe", self.channels.of(target), 1])

    def moved_error(self, target: Target) -> MovedError:
        return MovedError(f"{key_slot(self.channels.of(target))} b:7000", status_code="MOVED")


def test_confirmations_count_by_their_channel_in_whatever_order() -> None:
    bench = Bench()
    bench.subscribed("cyd", "nobody", "ann")
    bench.link._confirmed([b"ssubscribe", b"another:user:ann", 1])
    assert list(bench.shard.has) == ["cyd", "ann"]
    assert list(bench.shard.asked) == [ALL, "bob"]
    assert bench.link.attempts.succeeded


def test_what_has_moved_is_the_first_that_was_asked_for() -> None:
    bench = Bench()
    bench.subscribed(ALL)
    bench.link._refused(bench.moved_error("ann"))
    assert bench.moves == ["ann"]
    assert list(bench.shard.asked) == ["bob", "cyd"]
    assert list(bench.other.queue) == ["ann"]


def test_what_has_moved_may_be_a_channel_that_was_to_be_left() -> None:
    """SUNSUBSCRIBE is answered by MOVED, too. It is not the next SSUBSCRIBE that is refused."""
    bench = Bench()
    bench.link._refused(bench.moved_error("someone who left"))
    assert bench.moves == []
    bench.subscribed(ALL, "ann", "bob", "cyd")
    assert list(bench.shard.has) == [ALL, "ann", "bob", "cyd"]
    bench.link._refused(bench.moved_error("ann"))  # nothing was asked for
    assert bench.moves == []
    assert "ann" in bench.shard.has


@pytest.mark.parametrize("error", [ClusterDownError("Hash slot not served"), TryAgainError("later")])
def test_what_is_refused_for_now_costs_no_link_and_is_asked_for_again(error: Exception) -> None:
    bench = Bench()
    bench.subscribed(ALL)
    bench.link._refused(error)
    assert bench.shard.refuses
    assert list(bench.shard.queue) == ["ann"]
    bench.subscribed("bob", "cyd")
    assert bench.shard.take_queue(9) == ["ann"]
    bench.subscribed("ann")
    assert bench.gaps == [{"ann"}]
    bench.link._refused(error)  # a channel that was to be left
    assert not bench.shard.queue


@pytest.mark.parametrize(
    ("error", "clustered"),
    [
        (NoPermissionError("No permissions to access a channel"), True),
        (ClusterDownError("Hash slot not served"), False),
        (MovedError("1 b:7000"), False),
    ],
)
def test_any_other_refusal_is_a_lost_link(error: Exception, clustered: bool) -> None:
    bench = Bench(clustered=clustered)
    with pytest.raises(type(error)):
        bench.link._refused(error)


def test_what_redis_leaves_by_itself_is_asked_for_again_and_what_it_was_told_to_is_not() -> None:
    bench = Bench()
    bench.subscribed(ALL, "ann", "bob", "cyd")
    bench.link._unsubscribed([b"sunsubscribe", bench.channels.of("ann"), 1])
    assert list(bench.shard.queue) == ["ann"]
    bench.link._unsubscribed([b"sunsubscribe", bench.channels.of("ann"), 1])
    bench.link._unsubscribed([b"sunsubscribe", bench.channels.of("nobody"), 1])
    bench.link._unsubscribed([b"sunsubscribe", None, 1])
    assert list(bench.shard.queue) == ["ann"]


def test_a_link_that_was_lost_has_succeeded_when_all_is_back() -> None:
    bench = Bench()
    link, shard, counters = bench.link, bench.shard, bench.hub.counters
    bench.subscribed(ALL, "ann", "bob", "cyd")
    assert counters.redis_reconnects == 0
    link.attempts._lost(OSError("lost"))
    bench.interest.link_lost(shard)
    assert link.problem_code == "redis_unreachable"
    bench.interest.link_up(shard)
    shard.take_queue(10)
    bench.subscribed(ALL, "ann", "bob")
    assert not link.attempts.succeeded
    assert "3 of 4" not in (link.problem or "")
    assert "1 of 4 channels to go" in (link.problem or "")
    assert link.problem_code == "redis_subscribing"
    assert counters.redis_reconnects == 0
    bench.subscribed("cyd")
    assert link.attempts.succeeded
    assert counters.redis_reconnects == 1


def test_messages_are_for_the_target_of_their_channel() -> None:
    bench = Bench()
    received: list[Any] = []
    bench.link._parts.intake.receive = lambda *what: received.append(what)  # type: ignore[method-assign]
    for channel, payload in (
        (bench.channels.of("ann"), b"{}"),
        (bench.channels.of(ALL), b"{}"),
        (b"another", b"{}"),
        (bench.channels.of("ann"), 5),
    ):
        bench.link._message([b"smessage", channel, payload])
    assert received == [(b"{}", None, ("ann",)), (b"{}", None, None)]


def test_what_had_come_by_the_master_before_is_not_delivered_again_and_that_is_told() -> None:
    """It may be another message with the same text, so there is a gap in its place."""
    bench, echoes = Bench(), Echoes()
    parts = bench.link._parts
    old = ShardLink(parts, bench.shard, address=("a", 7000), moved=bench.moved, echoes=echoes)
    new = ShardLink(parts, bench.shard, address=("b", 7000), moved=bench.moved, echoes=echoes)
    old.replicas = frozenset([("b", 7000)])
    ann = Client(joined(bench.hub, "ann"))

    def comes(link: ShardLink, *payloads: bytes) -> list[str]:
        for payload in payloads:
            link._message([b"smessage", bench.channels.of("ann"), payload])
        ann.received = b""
        flush_now(bench.hub)
        return ann.names

    copy = with_copy(b'{"user_id":"ann"}', "c" * 22)
    assert comes(old, b"{}", b"{ }", b"{}", copy) == ["message"] * 4
    assert comes(new, copy) == []
    assert comes(new, b"{}", b"{}") == ["gap"]  # once for both
    joined(bench.hub, "ann")
    bench.hub.counters.streams += 1  # as the service does
    assert comes(new, b"{ }") == ["gap"]  # this one would not know
    assert comes(new, b"{ }", b"{}") == ["message"] * 2
    comes(old, b"{}")
    assert comes(new, b"{}") == ["gap"]


class Wire:
    """In the place of a link: what is written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    async def send_packed_command(self, packed: bytes, **_: bool) -> None:
        self.written.append(packed)


@pytest.mark.parametrize("clustered", [True, False])
def test_a_cluster_gets_one_channel_in_a_command_and_one_redis_all(clustered: bool) -> None:
    """In a cluster all channels of a command must be of one slot."""
    bench = Bench(clustered=clustered)
    wire: Any = Wire()
    asyncio.run(bench.link._write(wire, bench.link._verbs[0], [b"a", b"b"]))
    sent = b"*2\r\n$10\r\nssubscribe\r\n$1\r\na\r\n*2\r\n$10\r\nssubscribe\r\n$1\r\nb\r\n"
    assert wire.written == [sent if clustered else b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\nb\r\n"]
