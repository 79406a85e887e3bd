"""A real Redis stream, read by single commands, and whether it is still the one that was read."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
import trio
import trio_asyncio
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tests.support.inside import settings, until
from tests.support.log import DATABASE, KEY, BackEnd, payload, real
from trio_sse.broker import log
from trio_sse.broker.link import open_link
from trio_sse.broker.log import (
    Info,
    Pace,
    Place,
    before,
    behind,
    read_after,
    read_back,
    read_info,
    wait_for_entry,
)
from trio_sse.delivery.event_ids import EntryId, entry_id, entry_text

LARGEST = 2**64 - 1
IDS = st.tuples(st.integers(0, LARGEST), st.sampled_from([0, 1, 7, LARGEST - 1, LARGEST]))


async def ask(port: int, question: Callable[[redis.asyncio.Connection], Awaitable[Any]]) -> Any:
    """Put a question to Redis from the kind of loop that a connection needs."""

    async def asked() -> Any:
        async with open_link(settings(redis_port=port, redis_main_db=DATABASE), database=True) as connection:
            return await question(connection)

    async with trio_asyncio.open_loop():
        return await trio_asyncio.aio_as_trio(asked)()


async def info_of(port: int) -> Info:
    info: Info = await ask(port, lambda connection: read_info(connection, KEY))
    return info


def at(number: int) -> EntryId:
    return entry_id(real(f"{number}-0"))


def info(last: int, *, added: int | None, length: int) -> Info:
    """A stream of the entries 1-0, 2-0 and so on, of which the newest are left."""
    return Info((last, 0), (last - length + 1, 0) if length else None, added, length)


async def test_a_key_that_is_not_there_is_an_empty_stream(port: int, back_end: BackEnd) -> None:
    assert await info_of(port) == Info((0, 0), None, 0, 0)


async def test_of_a_stream_is_known_what_it_has_and_ever_had(port: int, back_end: BackEnd) -> None:
    back_end.add(1, 2, 3, 4)
    assert await info_of(port) == Info(at(4), at(1), 4, 4)
    back_end.xtrim(KEY, maxlen=1, approximate=False)
    assert await info_of(port) == Info(at(4), at(4), 4, 1)
    back_end.xtrim(KEY, maxlen=0, approximate=False)
    assert await info_of(port) == Info(at(4), None, 4, 0)


async def test_a_key_of_another_type_is_an_error_and_no_empty_stream(port: int, back_end: BackEnd) -> None:
    back_end.set(KEY, "text")
    with pytest.RaisesGroup(pytest.RaisesExc(ResponseError, match="WRONGTYPE"), flatten_subgroups=True):
        await info_of(port)


async def test_what_follows_an_entry_is_read_in_order_a_page_at_most(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PAGE", 3)
    back_end.add(*range(1, 8))
    for after, found in ((0, [1, 2, 3]), (2, [3, 4, 5]), (6, [7]), (7, [])):
        about, entries = await ask(port, lambda it, after=after: read_after(it, KEY, at(after), Pace(9)))  # type: ignore[misc]
        assert entries == [(at(number), payload(number).encode()) for number in found]
        assert about == Info(at(7), at(1), 7, 7)


async def test_where_there_is_no_stream_nothing_follows(port: int, back_end: BackEnd) -> None:
    assert await ask(port, lambda it: read_after(it, KEY, (0, 0), Pace(9))) == (Info((0, 0), None, 0, 0), [])
    assert await ask(port, lambda it: read_back(it, KEY, (9, 9), (0, 0), Pace(10))) == []


async def test_what_follows_in_a_key_of_another_type_is_an_error(port: int, back_end: BackEnd) -> None:
    back_end.set(KEY, "text")
    with pytest.RaisesGroup(pytest.RaisesExc(ResponseError, match="WRONGTYPE"), flatten_subgroups=True):
        await ask(port, lambda it: read_after(it, KEY, (0, 0), Pace(9)))


async def test_the_stream_is_told_as_it_was_when_its_entries_were_read(port: int, back_end: BackEnd) -> None:
    """A back end that adds and trims all the while never makes the two disagree."""
    stop = threading.Event()

    def add_and_trim() -> None:
        with BackEnd(port) as busy:
            while not stop.is_set():
                busy.xadd(KEY, {"payload": "x"}, maxlen=3, approximate=False)

    async def look(connection: redis.asyncio.Connection) -> None:
        for _ in range(300):
            about, entries = await read_after(connection, KEY, (0, 0), Pace(9))
            assert len(entries) == about.length
            if entries:
                assert (about.first, about.last) == (entries[0][0], entries[-1][0])

    thread = threading.Thread(target=add_and_trim)
    thread.start()
    try:
        await ask(port, look)
    finally:
        stop.set()
        thread.join()


async def test_waiting_ends_with_an_entry_or_when_the_time_is_over(port: int, back_end: BackEnd) -> None:
    back_end.add(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, port, lambda it: wait_for_entry(it, KEY, at(0), 0))  # at once
        nursery.start_soon(ask, port, lambda it: wait_for_entry(it, KEY, at(1), 1))
        nursery.start_soon(ask, port, lambda it: wait_for_entry(it, "no such key", at(1), 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, port, lambda it: wait_for_entry(it, KEY, at(1), 0))
        await until(lambda: back_end.info("clients")["blocked_clients"])
        assert nursery.child_tasks
        back_end.add(2)


async def test_backwards_it_is_read_newest_first_and_both_ends_belong_to_it(
    port: int, back_end: BackEnd
) -> None:
    back_end.add(*range(1, 8))
    for end, start, count, found in (
        (at(9), (0, 0), 10, [7, 6, 5, 4, 3, 2, 1]),
        (at(7), (0, 0), 2, [7, 6]),
        (at(5), at(3), 10, [5, 4, 3]),
        (at(3), at(5), 10, []),
    ):
        pace = Pace(count)
        entries = await ask(port, lambda it, a=(end, start, pace): read_back(it, KEY, *a))  # type: ignore[misc]
        assert [entry for entry, _ in entries] == [at(number) for number in found]


async def test_of_an_entry_only_its_field_payload_counts(port: int, back_end: BackEnd) -> None:
    for position, fields in (
        ("1-0", {"payload": "x"}),
        ("2-0", {"other": "y", "payload": "z"}),
        ("3-0", {"payload2": "payload"}),
        ("4-0", {"a": "payload", "b": "x"}),
        ("5-0", {"payload": b"\xff\x00"}),
    ):
        back_end.add_raw(position, dict(fields))
    _, forwards = await ask(port, lambda it: read_after(it, KEY, (0, 0), Pace(9)))
    assert [message for _, message in forwards] == [b"x", b"z", None, None, b"\xff\x00"]
    assert await ask(port, lambda it: read_back(it, KEY, at(5), (0, 0), Pace(10))) == forwards[::-1]


@given(IDS, IDS)
def test_neighbours_of_an_id_have_nothing_between_them(entry: EntryId, other: EntryId) -> None:
    if entry > (0, 0):
        assert before(entry) < entry
        assert behind(before(entry)) == entry
        assert not before(entry) < other < entry
    if entry < (LARGEST, LARGEST):
        assert before(behind(entry)) == entry
        assert not entry < other < behind(entry)


def test_before_the_least_id_there_is_nothing() -> None:
    assert before((0, 0)) == (0, 0)


async def test_redis_takes_the_neighbours_of_an_id_as_bounds(port: int, back_end: BackEnd) -> None:
    """Beside the entries with the least and the greatest number of a millisecond, as well."""
    ids = [f"5-{LARGEST}", "6-0", "6-1"]
    for position in ids:
        back_end.xadd(KEY, {"payload": "x"}, id=position)
    for number, position in enumerate(ids):
        end, start = before(entry_id(position)), behind(entry_id(position))
        older = await ask(port, lambda it, end=end: read_back(it, KEY, end, (0, 0), Pace(9)))  # type: ignore[misc]
        newer = await ask(port, lambda it, start=start: read_back(it, KEY, (7, 0), start, Pace(9)))  # type: ignore[misc]
        assert [entry_text(entry) for entry, _ in older] == ids[:number][::-1]
        assert [entry_text(entry) for entry, _ in newer] == ids[number + 1 :][::-1]


@pytest.mark.parametrize(
    ("place", "now", "same"),
    [
        (Place((5, 0), 5), info(5, added=5, length=5), True),
        (Place((5, 0), 5), info(9, added=9, length=2), True),
        (Place((5, 0), 5), info(5, added=5, length=0), True),
        (Place((5, 0), 5), info(4, added=4, length=4), False),  # the last were lost, or never got there
        (Place((5, 0), 5), info(9, added=4, length=4), False),  # made anew, with fewer
        (Place((5, 0), 5), info(19, added=9, length=9), False),  # made anew, with more, and all of them newer
        (Place((5, 0), 5), info(19, added=9, length=8), True),  # as if trimmed: that is told otherwise
        (Place((5, 0), 5), Info((0, 0), None, 0, 0), False),  # deleted
        (Place((0, 0), 0), Info((0, 0), None, 0, 0), True),  # it does not exist yet
        (Place((0, 0), 0), info(3, added=3, length=3), True),
        # Redis before 7.0 does not count: the last id is all there is to go by.
        (Place((5, 0), None), info(9, added=1, length=1), True),
        (Place((5, 0), 5), info(9, added=None, length=1), True),
        (Place((5, 0), None), info(4, added=None, length=1), False),
    ],
)
def test_a_place_is_in_a_stream_that_went_on_from_there(place: Place, now: Info, same: bool) -> None:
    assert place.is_in(now) is same


@pytest.mark.parametrize(
    ("place", "now", "missing"),
    [
        (Place((5, 0), 5), info(9, added=9, length=9), False),
        (Place((5, 0), 5), info(9, added=9, length=5), False),  # its own entry is still there
        (Place((5, 0), 5), info(9, added=9, length=4), False),  # trimmed just up to it
        (Place((5, 0), 5), info(9, added=9, length=3), True),
        (Place((5, 0), 5), info(9, added=9, length=0), True),
        (Place((5, 0), 5), info(5, added=5, length=0), False),  # all that is gone was read
        (Place((0, 0), 0), Info((0, 0), None, 0, 0), False),
        (Place((0, 0), 0), info(9, added=9, length=9), False),
        (Place((0, 0), 0), info(9, added=9, length=8), True),
        # Without a count the worst is assumed, unless the entry of the place is still there, or all is.
        (Place((5, 0), None), Info((9, 0), (7, 0), 3, 3), False),
        (Place((5, 0), None), info(9, added=9, length=4), True),
        (Place((5, 0), 5), info(9, added=None, length=4), True),
        (Place((5, 0), None), info(9, added=None, length=5), False),
        (Place((5, 0), None), info(5, added=None, length=0), False),
    ],
)
def test_a_place_misses_what_was_trimmed_away_behind_it(place: Place, now: Info, missing: bool) -> None:
    assert place.misses_trimmed(now) is missing


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 5)), max_size=20))
def test_whatever_is_added_trimmed_and_read_a_loss_is_told_once_and_nothing_else(
    rounds: list[tuple[int, int, int]],
) -> None:
    """In each round so many entries are added, so many are left at most, and so many are read at most."""
    place, added, first, read = Place((0, 0), 0), 0, 1, 0
    for more, left, count in rounds:
        added += more
        first = max(first, added - left + 1)
        now = info(added, added=added, length=added - first + 1)
        assert place.is_in(now)
        assert place.misses_trimmed(now) is (first > read + 1)
        if place.misses_trimmed(now):
            place.skip_trimmed(now)
            read = first - 1
            assert not place.misses_trimmed(now)
        for number in range(read + 1, min(read + count, added) + 1):
            place.advance((number, 0))
            read = number


def test_where_redis_does_not_count_neither_does_a_place() -> None:
    place = Place((5, 0), None)
    place.advance((6, 0))
    assert (place.last, place.added) == ((6, 0), None)
    place.skip_trimmed(info(9, added=None, length=1))
    assert place.added is None


@pytest.mark.parametrize(
    ("now", "entry", "never"),
    [
        (info(9, added=4, length=4), (5, 0), True),
        (info(9, added=4, length=4), (6, 0), False),
        (info(9, added=4, length=4), (0, 0), False),
        (info(9, added=9, length=4), (5, 0), False),  # it was trimmed away
        (info(9, added=None, length=4), (5, 0), False),
        (Info((0, 0), None, 0, 0), (5, 0), False),
    ],
)
def test_a_log_that_has_all_it_ever_had_never_had_what_is_older(
    now: Info, entry: EntryId, never: bool
) -> None:
    assert now.never_had(entry) is never


def test_at_the_end_of_a_log_the_count_is_known_again() -> None:
    place = Place((5, 0), None)
    place.was_read(info(9, added=4, length=4))
    assert place.added is None
    place.advance((9, 0))
    place.was_read(info(9, added=4, length=4))
    assert place.added == 4
    assert not place.is_in(info(29, added=3, length=3))


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 24))
def test_nothing_is_missing_exactly_if_all_after_the_place_is_left(read: int, more: int, left: int) -> None:
    added = read + more
    now = info(added, added=added, length=min(left, added))
    assert Place((read, 0), read).misses_trimmed(now) is (more > left)
