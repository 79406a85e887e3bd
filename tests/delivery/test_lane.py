from __future__ import annotations

import pytest

from tests.support.lanes import World
from trio_sse.delivery.lane import Bounds, Lane
from trio_sse.delivery.messages import MessageError
from trio_sse.delivery.notices import GAP, gap
from trio_sse.delivery.resume import Start
from trio_sse.delivery.targets import ALL, followed, topic


def lane_of(world: World, user: str) -> Lane:
    world.lanes.begin(world.lanes.open(user), Start())
    return world.lanes.lanes[world.lanes.partitioning.of(user)[0]]


def test_a_message_is_for_those_of_this_partition_and_knows_of_the_others() -> None:
    world = World()
    lane = lane_of(world, "ann")
    others = [f"u{number}" for number in range(20)]
    here = tuple(one for one in others if world.layout.of(one) == lane.partition.number)
    payload = f'{{"user_id":{["ann", *others]},"n":1}}'.replace("'", '"').encode()
    found = lane.decode(payload, 10_000, (1, 0))
    assert found.targets == ("ann", *here)
    assert set(found.elsewhere) == {*others} - {*here}


def test_one_for_everybody_is_in_each_partition() -> None:
    world = World()
    found = lane_of(world, "ann").decode(b'{"user_id":"*"}', 100, (1, 0))
    assert (found.targets, found.elsewhere) == (None, (ALL,))


def test_one_that_is_for_nobody_here_is_refused() -> None:
    world = World()
    lane = lane_of(world, "ann")
    stranger = next(f"u{n}" for n in range(99) if world.layout.of(f"u{n}") != lane.partition.number)
    with pytest.raises(MessageError, match=r"not for notes:\{"):
        lane.decode(f'{{"user_id":"{stranger}"}}'.encode(), 100, (1, 0))


def test_ids_of_its_history_name_it() -> None:
    world = World()
    lane = lane_of(world, "ann")
    of, number = lane.partition
    assert lane.history.text(0) == f"{of}:{number}.-"
    lane.history.read_up_to((36, 1))
    assert lane.history.text(0) == f"{of}:{number}.10_1"


def test_bounds_are_shared_and_none_is_zero() -> None:
    shared = Bounds(10, 300.0, 100, 3, 1000, 30.0).share(4)
    assert shared == Bounds(3, 300.0, 25, 1, 250, 30.0)
    assert Bounds(10, 300.0, 100, 3, 1000, 30.0).share(0) == Bounds(10, 300.0, 100, 3, 1000, 30.0)


def test_a_stream_of_one_partition_has_one_strand_that_skips_nothing() -> None:
    world = World(1)
    braid = world.lanes.open(followed("ann", ["a"]))
    world.lanes.begin(braid, Start())
    world.read()
    (strand,) = braid.strands.values()
    assert strand.follows == followed("ann", ["a"])
    assert topic("a") in strand.follows
    assert strand.skips == frozenset()


def test_what_a_bridge_may_have_lost_is_a_gap_for_everybody() -> None:
    world = World()
    lane = lane_of(world, "ann")
    found = lane.decode(GAP, 100, (1, 0))
    assert (found.targets, found.elsewhere) == (None, (ALL,))
    assert found.frame("8:1.a") == gap("redis_reconnected", None, id="8:1.a")
