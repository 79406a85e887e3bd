"""Streams over several partitions, without Redis: what is read is given to the lanes by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.inside import Client, events, flush_now, numbers
from tests.support.lanes import ALL_TARGETS, TOPICS, World
from trio_sse.delivery.braid import Braid
from trio_sse.delivery.lanes import LINGER_SECONDS
from trio_sse.delivery.logged_connection import LoggedBraid
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.partitions import parse_place
from trio_sse.delivery.resume import Start
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import followed, topic

targets = st.none() | st.lists(st.sampled_from(ALL_TARGETS), min_size=1, max_size=4, unique=True).map(tuple)
steps = st.lists(
    st.one_of(st.tuples(st.just("publish"), targets), st.sampled_from([("cut",), ("busy",), ("free",)]))
)


@given(
    steps,
    st.sets(st.sampled_from(TOPICS), max_size=4),
    st.none() | st.just("ann"),
    st.integers(1, 6),
)
def test_whatever_happens_each_message_is_seen_once(
    steps: list[Any], topics: set[str], user: str | None, partitions: int
) -> None:
    if user is None and not topics:
        topics = {"a"}
    world = World(partitions, capacity=10_000)
    client, seen = world.open(user, sorted(topics)), b""
    world.read()
    for kind, *given_ in steps:
        if kind == "publish":
            world.publish(*given_)
        elif kind == "cut":
            seen += client.received
            ids = [event.id for event in events(seen)]
            client = world.open(user, sorted(topics), last_event_id=ids[-1])
        elif kind == "busy":
            client.busy = True
        else:
            client.catch_up()
    client.catch_up()
    seen += client.received
    follows = {*map(topic, topics), *([user] if user else [])}
    assert sorted(numbers(seen)) == world.for_those(follows)
    assert {event.event for event in events(seen)} <= {"connected", "message"}


def test_messages_of_one_partition_stay_in_order() -> None:
    world = World(3)
    client = world.open("ann", TOPICS)
    world.read()
    for _ in range(5):
        for target in ALL_TARGETS[2:]:
            world.publish((target,))
    client.busy = True
    for _ in range(2):
        for target in ALL_TARGETS[2:]:
            world.publish((target,))
    client.catch_up()
    by_partition: dict[int, list[int]] = {}
    for number in client.numbers:
        (target,) = world.published[number - 1] or ()
        by_partition.setdefault(world.layout.of(target), []).append(number)
    assert all(found == sorted(found) for found in by_partition.values())
    assert len(client.numbers) == 28


def test_a_stream_begins_when_all_its_partitions_are_read() -> None:
    world = World()
    client = world.open("ann", TOPICS)
    lanes = world.lanes.take_new()
    assert len(lanes) > 1
    for lane in lanes:
        assert client.received == b""
        lane.history.read_up_to((0, 0))
        world.lanes.was_tried(lane)
    (greeting,) = events(client.received)
    assert greeting.json()["topics"] == TOPICS
    place = parse_place(greeting.id)
    assert place is not None
    assert list(place.parts) == [lane.partition for lane in lanes]


def test_one_that_leaves_while_it_waits_leaves_nothing() -> None:
    world = World()
    braid = world.lanes.open(followed("ann", TOPICS))
    world.lanes.begin(braid, Start())
    braid.leave()
    braid.leave()
    world.read()
    assert all(
        not lane.followers and not lane.waiting and not len(lane.hub) for lane in world.lanes.lanes.values()
    )


def test_a_partition_is_given_up_some_time_after_its_last_follower() -> None:
    world = World()
    first, second = world.lanes.open("ann"), world.lanes.open("ann")
    for braid in (first, second):
        world.lanes.begin(braid, Start())
    stopped: list[str] = []
    for lane in world.lanes.take_new():
        world.lanes.stops_by(lane, lambda: stopped.append("stopped"))
        world.lanes.was_tried(lane)
    first.leave()
    world.now += 2 * LINGER_SECONDS
    world.lanes.expire()
    assert len(world.lanes.lanes) == 1
    second.leave()
    world.now += LINGER_SECONDS - 1
    world.lanes.expire()
    assert not stopped
    world.now += 1
    world.lanes.expire()
    assert stopped == ["stopped"]
    assert not world.lanes.lanes


def test_one_that_was_never_read_is_given_up_too() -> None:
    world = World()
    braid = world.lanes.open("ann")
    world.lanes.begin(braid, Start())
    braid.leave()
    world.now += LINGER_SECONDS
    world.lanes.expire()
    assert not world.lanes.take_new()


@pytest.mark.parametrize("limit", [1, 3])
def test_each_partition_has_its_share_of_the_bounds(limit: int) -> None:
    world = World(messages=limit)
    world.open("ann", TOPICS)
    world.read()
    for _ in range(10):
        for target in ALL_TARGETS:
            world.publish((target,))
    assert max(len(lane.history) for lane in world.lanes.lanes.values()) == limit


def test_the_strands_of_a_stream_that_ended_are_in_no_hub() -> None:
    world = World()
    braid = world.lanes.open(followed("ann", TOPICS))
    world.lanes.begin(braid, Start())
    world.read()
    assert isinstance(braid, Braid)
    assert all(len(lane.hub) == 1 for lane in world.lanes.lanes.values())
    braid.leave()
    assert all(not len(lane.hub) for lane in world.lanes.lanes.values())
    assert world.counters.streams == 0


def test_a_gap_in_one_partition_is_told_to_those_who_come_back_too() -> None:
    world = World()
    client = world.open("ann", TOPICS)
    world.read()
    lane = next(iter(world.lanes.lanes.values()))
    lane.hub.announce_gap("redis_reconnected")
    flush_now(lane.hub)
    assert client.notices == ["connected", "gap"]
    again = world.open("ann", TOPICS, last_event_id=events(client.received)[0].id)
    assert again.notices == ["connected", "gap"]


def test_a_message_is_heard_where_its_partitions_are_read() -> None:
    world = World()
    one, other = world.layout.of("ann"), world.layout.of("bob")
    assert one != other
    both = Notification(("ann", "bob"), None, b"{}")
    assert world.lanes.heard(both) == []
    world.open("ann")
    assert world.lanes.heard(both) == []  # it was not read yet
    world.read()
    (ann,) = world.lanes.heard(both)
    world.open("bob")
    world.read()
    assert world.lanes.heard(both)[0] is ann
    assert len(world.lanes.heard(both)) == 2
    assert world.lanes.heard(Notification(("bob",), None, b"{}")) == world.lanes.heard(both)[1:]
    assert len(world.lanes.heard(Notification(None, None, b"{}"))) == 2


def test_an_id_with_places_in_a_log_that_is_read_no_more_counts_by_its_others() -> None:
    """Else all clients would get a gap when the log that was replaced is dropped."""
    world = World()
    own = world.layout.of("ann")
    other = (own + 1) % 4
    moved = world.open("ann", last_event_id=f"4:{own}.0;8:1.a")
    gone = [world.open("ann", last_event_id=id) for id in ("8:1.a", "1795462559402-0")]  # noqa: A001
    less = world.open("ann", last_event_id=f"4:{own}.0,{other}.0")
    world.read()
    assert moved.notices == ["connected"]
    for client in (*gone, less):
        assert client.notices == ["connected", "gap"]


async def test_a_stream_that_is_logged_counts_what_all_partitions_gave() -> None:
    world = World(capacity=2)
    braid = world.lanes.open(followed("ann", TOPICS), "192.0.2.1")
    assert isinstance(braid, LoggedBraid)
    world.lanes.begin(braid, Start())
    client = Client(braid)
    world.read()
    client.catch_up()
    for target in ("ann", *map(topic, TOPICS)):
        world.publish((target,))
    client.busy = True
    for _ in range(5):
        world.publish(("ann",))
    with capture_logs() as lines:
        braid.ends("write_timeout")
        braid.say()
    (line,) = lines
    assert (line["messages"], line["dropped"], line["why"]) == (5, 3, "write_timeout")
    client.catch_up()
    assert braid.counted.messages == client.names.count("message") == 7
    assert braid.counted.dropped == 3


def test_who_follows_less_than_before_is_told_and_that_counts_as_a_gap() -> None:
    world = World()
    first = world.open("ann", TOPICS)
    world.read()
    again = world.open("ann", last_event_id=events(first.received)[0].id)
    assert again.notices == ["connected", "gap"]
    assert world.counters.gaps == {"unknown_id": 1}


async def test_a_strand_that_ended_by_itself_says_why_the_stream_did() -> None:
    world = World(capacity=1, disconnect=True)
    braid = world.lanes.open(followed("ann", TOPICS), "192.0.2.1")
    stream = braid.record = StreamRecord("1", braid, braid.follows)
    world.lanes.begin(braid, Start())
    client = Client(braid)
    world.read()
    client.catch_up()
    client.busy = True
    for _ in range(2):
        world.publish(("ann",))
    assert braid.closed
    assert stream.why == "slow_client"
    assert isinstance(braid, LoggedBraid)
    assert braid.counted.why == "slow_client"
