"""Records of presence in a real Redis: who comes first and who goes last is told, whatever nodes do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.inside import settings
from tests.support.log import DATABASE, BackEnd
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.presence_records import Here, Records, Told
from trio_sse.delivery.attendance import GONE, QUIET, TELL, UNSURE, Change, Record
from trio_sse.delivery.targets import topic

ROOM = topic("room")
NOBODY = Here(-1)

Test = Callable[[Records], Awaitable[None]]


@pytest.fixture
def run(port: int, back_end: BackEnd) -> Callable[[Test], None]:
    """Run a test with the records of one partition, in an empty Redis."""

    async def with_records(test: Test) -> None:
        links = KeyLinks(settings(redis_port=port, redis_main_db=DATABASE), None)
        try:
            await test(Records(links, "notifications", 3, 3600))
        finally:
            await links.close()

    return lambda test: asyncio.run(with_records(test))


async def lives(records: Records, *names: str, seconds: float = 100) -> None:
    for name in names:
        assert (await records.beat(name, seconds, 0, epoch="e", fresh=True)).known


def change(streams: int, record: Record = "ann", how: str = TELL) -> list[Change]:
    return [Change(record, streams, how)]


CAME, WENT, NONE = Told(["ann"], []), Told([], ["ann"]), Told([], [])


def test_what_was_meant_for_other_data_is_not_written(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        assert await records.write("a", change(1), "another") is None
        assert await records.read(["ann"], 0) == [NOBODY]
        assert await records.write("a", change(1), "e") == CAME

    run(test)


def test_the_first_node_that_has_somebody_is_told_and_the_last_one(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a", "b")
        assert await records.write("a", change(1)) == CAME
        assert await records.write("b", change(2)) == NONE
        assert await records.write("a", change(5)) == NONE
        assert await records.read(["ann", "bob"], 0) == [Here(7), NOBODY]
        assert await records.write("a", change(GONE)) == NONE
        assert await records.read(["ann"], 0) == [Here(2)]
        assert await records.write("b", change(GONE)) == WENT
        assert await records.write("b", change(GONE)) == NONE
        assert await records.read(["ann"], 0) == [NOBODY]

    run(test)


def test_who_has_just_left_is_still_here(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        await records.write("a", change(0))
        assert await records.read(["ann"], 0) == [Here(0)]

    run(test)


@pytest.mark.parametrize(
    ("before", "again", "told"),
    [
        ([], change(1, how=UNSURE), CAME),
        ([change(1)], change(1, how=UNSURE), CAME),
        ([change(1), change(GONE)], change(GONE, how=UNSURE), WENT),
        ([change(1)], change(GONE, how=UNSURE), WENT),
        ([], change(1, how=QUIET), NONE),
        ([change(1)], change(GONE, how=QUIET), NONE),
        ([change(1)], change(1), NONE),
        ([], change(GONE), NONE),
    ],
)
def test_a_change_whose_answer_was_lost_is_told_when_it_is_made_again(
    run: Callable[[Test], None], before: list[list[Change]], again: list[Change], told: Told
) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        for one in before:
            await records.write("a", one)
        assert await records.write("a", again) == told

    run(test)


def test_another_node_makes_it_certain_that_nobody_came(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a", "b")
        await records.write("b", change(1))
        assert await records.write("a", change(1, how=UNSURE)) == NONE
        assert await records.write("a", change(GONE, how=UNSURE)) == NONE

    run(test)


def test_only_users_come_and_go_whatever_they_and_topics_are_called(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        named: list[Record] = ["user:x", "x=1 y", ROOM, (ROOM, "user:x"), (ROOM, "x=1 y")]
        assert await records.write("a", [Change(one, 1, TELL) for one in named]) == Told(
            ["user:x", "x=1 y"], []
        )
        (room,) = await records.read([ROOM], 10)
        assert (room.streams, room.users, sorted(room.ids), room.more) == (1, 2, ["user:x", "x=1 y"], False)
        assert await records.write("a", [Change(one, GONE, TELL) for one in named]) == Told(
            [], ["user:x", "x=1 y"]
        )

    run(test)


def test_members_are_counted_and_named_as_far_as_the_bound(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a", "b")
        for name in ("a", "b"):
            members = [Change((ROOM, str(number)), 1, TELL) for number in range(30)]
            await records.write(name, [Change(ROOM, 30, TELL), *members])
        (room,) = await records.read([ROOM], 10)
        assert (room.streams, room.users, len(set(room.ids)), room.more) == (60, 30, 10, True)
        (room,) = await records.read([ROOM], 30)
        assert (room.users, len(set(room.ids)), room.more) == (30, 30, False)
        (room,) = await records.read([ROOM], 0)
        assert (room.users, room.ids) == (30, ())

    run(test)


def test_what_a_dead_node_had_counts_no_more_and_is_removed_by_one_other(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a", "b")
        await lives(records, "dead", seconds=0.2)
        alone: list[Record] = ["ann", ROOM, (ROOM, "ann"), (ROOM, "bob")]
        await records.write("dead", [Change(one, 1, TELL) for one in (*alone, "bob")])
        await records.write("a", change(1, "bob") + change(1, (ROOM, "bob")))
        await asyncio.sleep(0.3)
        assert await records.read(["ann", "bob"], 0) == [NOBODY, Here(1)]
        (room,) = await records.read([ROOM], 10)
        assert (room.streams, room.users, room.ids) == (-1, 1, ("bob",)), "before they are removed"
        assert (await records.read([ROOM], 0))[0].users == 1
        beats = [await records.beat(name, 100, 0, epoch="e", fresh=False) for name in ("a", "b")]
        assert [beat.dead for beat in beats] == [["dead"], []]
        assert await records.remove("dead") == WENT
        (room,) = await records.read([ROOM], 10)
        assert (room.streams, room.users, room.ids) == (-1, 1, ("bob",))
        assert await records.remove("dead") == NONE

    run(test)


def test_of_many_records_all_of_a_dead_node_are_removed(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        await lives(records, "dead", seconds=0.1)
        names = [str(number) for number in range(3000)]
        for number in range(0, 3000, 500):
            some = names[number : number + 500]
            await records.write("dead", [Change(name, 1, TELL) for name in some])
            await records.write("dead", [Change((ROOM, name), 1, TELL) for name in some])
        await records.write("dead", change(1, ROOM))
        await records.write("a", [Change(name, 1, TELL) for name in names[:200]])
        told = await records.remove("dead")
        assert sorted(told.gone) == sorted(names[200:])
        (room,) = await records.read([ROOM], 10)
        assert room == NOBODY

    run(test)


def test_a_node_that_others_took_for_dead_learns_it_and_redis_that_lost_its_data_is_told_apart(
    run: Callable[[Test], None], back_end: BackEnd
) -> None:
    async def test(records: Records) -> None:
        beat = await records.beat("a", 100, 0, epoch="first", fresh=True)
        assert (beat.epoch, beat.known) == ("first", True)
        await records.beat("b", 100, 0, epoch="second", fresh=True)
        assert (await records.beat("b", 100, 0, epoch="third", fresh=False)).epoch == "first"
        assert not (await records.beat("c", 100, 0, epoch="x", fresh=False)).known
        back_end.flushdb()
        assert not (await records.beat("a", 100, 0, epoch="x", fresh=False)).known
        assert (await records.beat("a", 100, 0, epoch="fourth", fresh=True)).epoch == "fourth"

    run(test)


def test_the_records_of_a_dead_node_are_kept_for_the_wait(run: Callable[[Test], None]) -> None:
    async def test(records: Records) -> None:
        await records.beat("dead", 0.05, 100, epoch="e", fresh=True)
        await asyncio.sleep(0.1)
        assert (await records.beat("a", 100, 100, epoch="e", fresh=True)).dead == []

    run(test)


def test_every_key_expires_and_is_in_one_slot(run: Callable[[Test], None], back_end: BackEnd) -> None:
    async def test(records: Records) -> None:
        await lives(records, "a")
        await lives(records, "dead", seconds=0.0)
        named: list[Any] = ["ann", ROOM, (ROOM, "ann")]
        await records.write("a", [Change(one, 1, TELL) for one in named])
        await lives(records, "a")

    run(test)
    keys: Any = back_end.keys()
    assert len(keys) == 5
    assert all(key.startswith(b"trio_sse:presence:{p3}:notifications:") for key in keys)
    assert all(0 < back_end.ttl(key) <= 3600 for key in keys)
