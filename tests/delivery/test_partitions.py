from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.partitions import (
    Layout,
    Partition,
    Partitioning,
    Place,
    parse_place,
    part_text,
    place_text,
)
from trio_sse.delivery.targets import ALL, followed, topic

EIGHT = Partitioning([Layout("notes", 8)])
MOVING = Partitioning([Layout("notes2", 8), Layout("notes", 0)])

entries = st.tuples(st.integers(0, 2**63), st.integers(0, 2**63))
places = st.builds(
    Place,
    st.dictionaries(
        st.builds(Partition, st.integers(0, 1024), st.integers(0, 1023)),
        st.none() | entries,
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)


def text(place: Place) -> str:
    return place_text(
        ((partition, part_text(partition, entry)) for partition, entry in place.parts.items()),
        published=place.published,
    )


def in_groups(place: Place) -> list[tuple[Partition, EntryId | None]]:
    return sorted(place.parts.items(), key=lambda item: [one.of for one in place.parts].index(item[0].of))


@given(places)
def test_an_id_says_what_it_was_made_of_in_its_order(place: Place) -> None:
    read = parse_place(text(place))
    assert read is not None
    assert (list(read.parts.items()), read.published) == (in_groups(place), place.published)


@given(st.text() | st.text("0123456789abc.,;:~_-"))
def test_whatever_a_client_sends_is_an_id_or_none(sent: str) -> None:
    parse_place(sent)


def test_an_id_of_five_partitions_is_compact() -> None:
    place = Place({Partition(64, number): (1795462559402, 35) for number in range(59, 64)})
    assert len(text(place)) < 100


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ("8:5.mb2x9k1q", Place({Partition(8, 5): (int("mb2x9k1q", 36), 0)})),
        ("8:5.mb2x9k1q_z", Place({Partition(8, 5): (int("mb2x9k1q", 36), 35)})),
        ("8~5.1795462559402-0", Place({Partition(8, 5): (1795462559402, 0)}, published=True)),
        ("8:5.-,3.a", Place({Partition(8, 5): None, Partition(8, 3): (10, 0)})),
        ("8:5.b;0:0.a", Place({Partition(8, 5): (11, 0), Partition(0, 0): (10, 0)})),
        ("1795462559402-0", Place({Partition(0, 0): (1795462559402, 0)})),
    ],
)
def test_ids_are_read(sent: str, place: Place) -> None:
    assert parse_place(sent) == place


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "8:",
        "8:5",
        "8:5.",
        "8:5.A",
        "8:5.a,",
        "8:5.a;",
        "8:5.a;4~1.b",
        "9f3c12ab77de.42",
        "x:1.a",
        "8:5.a\n",
    ],
)
def test_others_are_not(sent: str) -> None:
    assert parse_place(sent) is None


def test_a_target_is_in_the_partition_that_anybody_can_compute() -> None:
    layout = EIGHT.layouts[0]
    assert layout.of("42") == zlib.crc32(b"user:42") % 8
    assert layout.of(topic("orders/17")) == zlib.crc32(b"topic:orders/17") % 8
    assert layout.name(3) == "notes:{3}"
    assert layout.numbers(None) == list(range(8))
    assert Layout("notes", 0).name(0) == "notes"


def in_other_partitions(count: int) -> list[str]:
    """Users, each in a partition of its own."""
    found: dict[int, str] = {}
    for number in range(1000):
        found.setdefault(EIGHT.layouts[0].of(str(number)), str(number))
    return list(found.values())[:count]


def test_a_message_counts_for_a_stream_in_the_first_of_its_partitions_alone() -> None:
    users = in_other_partitions(3)
    names = [f"t{number}" for number in range(20)]
    follows = followed(users[0], names)
    order = EIGHT.order(follows, None)
    assert order[0] == EIGHT.of(users[0])[0]
    skips = dict(zip(order, EIGHT.skips(follows, order), strict=True))
    targets = (users[0], users[1], *map(topic, names))
    for message in (None, targets, targets[1:], targets[5:9]):
        notification = Notification(message, None, b"{}")
        taken = []
        for number in EIGHT.layouts[0].numbers(message):
            here = EIGHT.narrow(notification, Partition(8, number))
            assert here is not None
            reached = here.targets is None or set(here.targets) & set(follows)
            if Partition(8, number) in skips and reached:
                taken.append(not skips[Partition(8, number)].intersection(here.elsewhere))
        assert sum(taken) == 1


def test_each_layout_counts_for_itself() -> None:
    follows = followed("42", ["news"])
    order = MOVING.order(follows, None)
    assert [partition.of for partition in order] == [8, 0, 8] or [partition.of for partition in order] == [
        8,
        0,
    ]
    skips = MOVING.skips(follows, order)
    assert (skips[0], skips[1]) == (frozenset(), frozenset())
    if len(skips) > 2:
        assert skips[2] == {"42", ALL}


def test_the_order_of_a_stream_is_that_of_its_id() -> None:
    follows = followed("42", ["news", "sports"])
    order = EIGHT.order(follows, None)
    other = Place(dict.fromkeys(reversed(order), (1, 0)))
    assert EIGHT.order(follows, other) == order[::-1]
    assert EIGHT.order(follows, other._replace(published=True)) == order


def test_a_message_in_a_partition_of_nobody_it_is_for_is_for_nobody() -> None:
    own = EIGHT.of("42")[0].number
    notification = Notification(("42",), None, b"{}")
    assert EIGHT.narrow(notification, Partition(8, own)) is notification
    assert EIGHT.narrow(notification, Partition(8, (own + 1) % 8)) is None


def test_it_knows_its_partitions() -> None:
    assert MOVING.knows(Partition(8, 7))
    assert MOVING.knows(Partition(0, 0))
    assert not MOVING.knows(Partition(8, 8))
    assert not MOVING.knows(Partition(4, 1))
    assert MOVING.key(Partition(8, 7)) == "notes2:{7}"
    assert MOVING.key(Partition(0, 0)) == "notes"
