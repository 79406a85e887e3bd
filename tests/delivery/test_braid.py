from __future__ import annotations

import gc
import weakref

import pytest

from tests.support.inside import Client, events, flush_now
from tests.support.lanes import TOPICS, World
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.braid import Braid, Strand
from trio_sse.delivery.connection import HEARTBEAT, Connection
from trio_sse.delivery.marks import Mark
from trio_sse.delivery.partitions import parse_place
from trio_sse.delivery.receipts import Receipt
from trio_sse.delivery.resume import Start
from trio_sse.delivery.targets import each, followed, topic

BEAT = Batch.notice(b": beat\n\n")


def opened(world: World, **start: object) -> Braid:
    braid = world.lanes.open(followed("ann", TOPICS))
    world.lanes.begin(braid, Start(**start))  # type: ignore[arg-type]
    return braid


def live() -> tuple[World, Braid, Client]:
    world = World()
    braid = opened(world)
    world.read()
    return world, braid, Client(braid)


def test_heartbeats_leave_before_it_has_begun() -> None:
    world = World()
    braid = opened(world)
    client = Client(braid)
    assert not braid.begun
    braid.tell(HEARTBEAT, BEAT)
    assert client.received == b": beat\n\n"
    world.read()
    assert braid.begun


def test_the_latest_notice_of_a_kind_waits_for_a_busy_client() -> None:
    _, braid, client = live()
    client.busy = True
    for beat in (b"1", b"2"):
        braid.tell(HEARTBEAT, Batch.notice(b": %b\n\n" % beat))
    client.catch_up()
    assert client.received.endswith(b": 2\n\n")
    assert b": 1\n" not in client.received


def test_the_last_words_stand_behind_all_that_waits() -> None:
    world, braid, client = live()
    client.busy = True
    world.publish(("ann",))
    world.publish((topic("a"),))
    braid.end(b"event: bye\ndata: 1\n\n")
    assert client.closed
    client.catch_up()
    assert sorted(client.numbers) == [1, 2]
    assert [event.event for event in events(client.received)][-1] == "bye"


@pytest.mark.parametrize("begun", [True, False])
def test_one_that_ended_before_it_had_an_outlet_still_says_its_last_words(begun: bool) -> None:
    world = World()
    braid = opened(world)
    if begun:
        world.read()
    braid.end(b"event: bye\ndata: 1\n\n")
    world.read()
    client = Client(braid)
    assert client.closed
    client.catch_up()
    assert client.notices[-1:] == ["bye"]
    braid.end(b"event: again\ndata: 1\n\n")
    assert client.take_page() == b""


def test_it_ends_with_the_first_strand_that_ends() -> None:
    _, braid, client = live()
    next(iter(braid.strands.values())).close()
    assert braid.closed
    assert client.closed
    assert all(strand.closed for strand in braid.strands.values())


def test_while_a_place_is_not_known_no_id_is_given() -> None:
    """A client that is cut off in the middle of the snapshots comes back for all of them."""
    world = World()
    braid = opened(world, snapshot=True)
    braid_client = Client(braid)
    world.read()
    first, *others = events(braid_client.received)
    assert first.id == ""
    assert [event.event for event in others] == ["snapshot"] * len(braid.strands)
    assert [event.id for event in others[:-1]] == [""] * (len(others) - 1)
    assert parse_place(others[-1].id) is not None


def test_of_an_id_that_nobody_can_read_each_strand_tells() -> None:
    world = World()
    world.publish(("ann",))
    braid = opened(world, last_event_id="unknown")
    world.read()
    client = Client(braid, busy=True)
    world.publish((topic("a"),))
    world.publish(("ann",))
    client.catch_up()
    told = events(client.received)
    assert client.notices == ["connected", *["gap"] * len(braid.strands)]
    assert sorted(client.numbers) == [2, 3]
    assert parse_place(told[-1].id) is not None
    client.busy = True
    world.publish((topic("b"),))
    client.catch_up()
    assert client.numbers[-1] == 4


def test_what_is_written_names_what_was_written_before_by_another_strand() -> None:
    """An outlet first writes what waits. The id of what comes behind says that the client has it."""
    world = World()
    braid = opened(world)
    world.read()

    class Outlet(Client):
        def take(self, batch: Batch) -> bool:
            if not self.busy:
                self.take_page()  # as a socket's does
            return super().take(batch)

    client = Outlet(braid)
    client.take_page()
    client.busy = True
    world.publish((topic("a"),))
    client.busy = False
    world.publish(("ann",))
    assert client.numbers == [1, 2]
    last = parse_place(events(client.received)[-1].id)
    assert last is not None
    for target in ("ann", topic("a")):
        (partition,) = world.lanes.partitioning.of(target)
        assert last.parts[partition] == (world.entries[partition], 0)


def test_no_reference_circle_is_left_of_it() -> None:
    gc.disable()
    try:
        world = World()
        braid = opened(world)
        world.read()
        client = Client(braid)
        client.busy = True
        world.publish(("ann",))
        gone: list[weakref.ref[Connection]] = [weakref.ref(braid)]
        gone += [weakref.ref(strand) for strand in braid.strands.values()]
        braid.leave()
        del braid, client
        assert [one() for one in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_what_a_strand_gets_from_another_partition_it_skips_and_keeps_the_rest() -> None:
    world, _, client = live()
    for lane in world.lanes.lanes.values():
        lane.hub.begin_read()
    everybody = (("ann", *map(topic, TOPICS)), None, (topic("a"),), (topic("b"),), None)
    for targets in everybody:
        world.publish(targets)
    for lane in world.lanes.lanes.values():
        lane.hub.end_read()
        flush_now(lane.hub)
    assert sorted(client.numbers) == [1, 2, 3, 4, 5]


def test_what_a_strand_skips_is_not_counted_for_it() -> None:
    _, braid, client = live()
    strand = next(strand for strand in braid.strands.values() if strand.skips)
    skipped, kept = Receipt(), Receipt()
    mark = Mark(elsewhere=(next(iter(strand.skips)),))
    strand.offer(Batch([b": 1\n\n", b": 2\n\n"], [1, 2], {1: skipped, 2: kept}, {1: mark}))
    assert client.received.endswith(b"\n\n: 2\n\n")
    assert b": 1\n" not in client.received
    assert (skipped.took, kept.took) == (0, 1)


def test_a_message_waits_while_the_place_of_another_strand_is_not_known() -> None:
    """As while a replay from the log begins with a gap: its id would not name that place."""
    world, other, _ = live()
    here, there = list(other.strands)[:2]
    strands = {}
    braid = Braid(other.follows, other._common, lambda _: None)
    for partition in (here, there):
        lane = world.lanes.lanes[partition]
        follows = other.strands[partition].follows
        strands[partition] = Strand(braid, partition, follows, lane.common, frozenset())
        lane.hub.join(strands[partition])
    braid.weave(strands, {}, lambda *_: b"event: connected\ndata: 1\n\n")
    client = Client(braid)
    for partition, known in ((here, True), (there, False)):
        history = world.lanes.lanes[partition].history
        braid.began(partition, history.text(history.latest) if known else None, 0)
        strands[partition].begin(b"" if known else b"event: gap\ndata: 1\n\n", history.latest)
    targets = [next(one for one in each(strands[one].follows)) for one in (here, there)]
    world.publish((targets[0],))
    client.catch_up()
    assert (client.notices, client.numbers) == (["connected", "gap"], [])
    world.publish((targets[1],))
    client.catch_up()
    assert client.numbers == [2, 1]
    last = parse_place(events(client.received)[-1].id)
    assert last is not None
    assert list(last.parts) == [here, there]
    for partition, strand in strands.items():
        world.lanes.lanes[partition].hub.leave(strand)
