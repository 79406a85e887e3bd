"""What memory no longer keeps, found in a real Redis stream for clients that come back."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
import trio_asyncio

from tests.support.inside import PROCESS, Client, events, opened, until
from tests.support.log import START, BackEnd, came, has_read, ids, payload, reading, real, told
from trio_sse.broker import log, log_reader, lookup, replays
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.event_ids import entry_id, parse
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.notices import farewell
from trio_sse.service import Service


def lookups(back_end: BackEnd) -> int:
    """How often the stream was read backwards since `config_resetstat`."""
    stats: Any = back_end.info("commandstats")
    calls: int = stats.get("cmdstat_xrevrange", {"calls": 0})["calls"]
    return calls


def lookups_of(entries: int) -> int:
    """How often it is read for one walk over so many."""
    calls, count = 1, log.Pace().count
    while (entries := entries - count) >= 0:
        calls, count = calls + 1, min(4 * count, log.PAGE)
    return calls


async def answered(*clients: Client) -> None:
    await until(lambda: all(client.received for client in clients))


async def test_what_memory_has_needs_no_redis(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 10))
    async with reading(port) as service:
        back_end.config_resetstat()
        client = came(service, "4-0")
        assert told(client) == ["connected", 5, 6, 7, 8, 9]
        assert lookups(back_end) == 0


@pytest.mark.parametrize("position", ["0-0", "1-0", "12-0", "997-0", "998-5", "999-0"])
async def test_what_memory_no_longer_has_comes_from_the_stream(
    port: int, back_end: BackEnd, position: str
) -> None:
    """All that is older first, then what memory has, then what is new, each of them once."""
    back_end.add(*range(1, 999))
    async with reading(port, history_messages=2) as service:
        back_end.add(999, user="bob")
        back_end.add(1000, user="*")
        await has_read(service, "1000-0")
        client = came(service, position)
        await answered(client)
        back_end.add(1001)
        await until(lambda: 1001 in told(client))
    missed = [number for number in (*range(1, 999), 1000, 1001) if number > int(position.split("-")[0])]
    assert told(client) == ["connected", *missed]
    assert ids(client)[1:] == [f"{number}-0" for number in missed]
    assert parse(ids(client)[0]) <= parse(position)  # type: ignore[operator]


async def test_whoever_was_answered_is_not_held_until_the_next_question(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 20))
    async with reading(port, history_messages=5) as service:
        connection = opened(service, "ann", real("7-0"))
        client = Client(connection)
        await answered(client)
        service.hub.leave(connection)
        held = weakref.ref(connection)
        del client, connection

        def gone() -> bool:
            # Until a task's next step Trio keeps what ended its last wait, here the one for the answer, and
            # that has frames which name the client. So one look is not enough.
            gc.collect()
            return held() is None

        await until(gone)


async def test_wherever_the_answer_is_cut_off_the_last_id_leads_to_the_rest(
    port: int, back_end: BackEnd
) -> None:
    back_end.add(*range(1, 20))
    async with reading(port, history_messages=5) as service:
        client = came(service, "7-0")
        await answered(client)
        assert told(client) == ["connected", *range(8, 20)]
        again = [came(service, position) for position in ids(client)]
        await answered(*again)
    assert [told(client)[1:] for client in again] == [list(range(number, 20)) for number in range(8, 21)]


async def test_beyond_the_limit_the_newest_are_delivered_after_a_gap(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 601))
    async with reading(port, history_messages=100, replay_limit=300) as service:
        far, near = came(service, "5-0"), came(service, "450-0")
        await answered(far, near)
        assert told(near) == ["connected", *range(451, 601)]
        assert told(far) == ["connected", "history_expired", *range(201, 601)]
        # Who is cut off behind the gap has still the id from before it, and is told again.
        assert ids(far)[:3] == ["", "", "201-0"]


async def test_with_a_limit_of_none_memory_is_all_there_is(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 11))
    async with reading(port, history_messages=5, replay_limit=0) as service:
        client, kept = came(service, "2-0"), came(service, "5-0")
        await answered(client, kept)
        again = came(service, ids(client)[1])  # as if cut off behind the gap
    assert told(client) == ["connected", "history_expired", *range(6, 11)]
    assert told(kept) == told(again) == ["connected", *range(6, 11)]


@pytest.mark.parametrize(("back", "missing"), [(299, True), (300, False), (301, False)])
async def test_the_limit_counts_entries_and_what_is_just_within_it_is_whole(
    port: int, back_end: BackEnd, back: int, missing: bool
) -> None:
    back_end.add(*range(1, 602))
    async with reading(port, history_messages=1, replay_limit=300) as service:
        client = came(service, f"{back}-0")
        await answered(client)
    gaps: list[int | str] = ["history_expired"] if missing else []
    assert told(client) == ["connected", *gaps, *range(max(back, 300) + 1, 602)]


def largest_page(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each answer gives to a connection."""
    sizes: list[int] = []
    begin = Connection.begin

    def begin_and_note(self: Connection, said: bytes, after: int, older: Any = (), **values: Any) -> None:
        sizes.append(sum(map(len, older)))
        begin(self, said, after, older, **values)

    monkeypatch.setattr(Connection, "begin", begin_and_note)
    return sizes


async def test_a_long_answer_comes_in_pages_and_is_whole(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is no matter of memory, so SSE_HISTORY_BYTES is no bound of it."""
    sizes = largest_page(monkeypatch)
    back_end.add(*range(1, 1001), padding=1000)
    async with reading(port, history_messages=10, history_bytes=50_000) as service:
        client = came(service, "1-0")
        await until(lambda: 1000 in told(client))
    assert told(client) == ["connected", *range(2, 1001)]
    assert events(client.received)[0].json()["replayed"] == 999
    assert len(sizes) > 10
    assert max(sizes) < PAGE_BYTES + 1200


@pytest.mark.parametrize("history_messages", [0, 2, 100])
async def test_what_was_trimmed_away_is_told_and_the_rest_delivered(
    port: int, back_end: BackEnd, history_messages: int
) -> None:
    back_end.add(*range(1, 21))
    back_end.xtrim("events", maxlen=10, approximate=False)
    async with reading(port, history_messages=history_messages) as service:
        clients = [came(service, f"{number}-0") for number in (0, 5, 11, 12, 20)]
        await answered(*clients)
    for client in clients[:2]:
        assert told(client) == ["connected", "history_expired", *range(11, 21)]
    for client, number in zip(clients[2:], (11, 12, 20), strict=True):
        assert told(client) == ["connected", *range(number + 1, 21)]


async def test_what_was_trimmed_away_to_the_last_is_told(port: int, back_end: BackEnd) -> None:
    back_end.add(1, 2, 3)
    back_end.xtrim("events", maxlen=0, approximate=False)
    async with reading(port) as service:
        back, there = came(service, "1-0"), came(service, "3-0")
        await answered(back, there)
    assert told(back) == ["connected", "history_expired"]
    assert told(there) == ["connected"]


async def test_what_memory_loses_while_the_stream_is_read_is_read_from_the_stream_too(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_info, calls = log.read_info, 0

    async def read_info_and_add(redis: Any, key: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # all has been read for the answer
            back_end.add(*range(11, 31))
            await trio_asyncio.trio_as_aio(has_read)(service, "30-0")
        return await read_info(redis, key)

    monkeypatch.setattr(lookup, "read_info", read_info_and_add)
    back_end.add(*range(1, 11))
    async with reading(port, history_messages=3) as service:
        client = came(service, "2-0")
        await until(lambda: 30 in told(client))
    assert calls > 2
    assert told(client) == ["connected", *range(3, 31)]


async def test_what_is_read_while_redis_answers_is_no_sign_of_another_stream(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_info_and_read_on(redis: Any, key: str) -> Any:
        info = await log.read_info(redis, key)
        if info.last < entry_id(real("60-0")):
            newest = info.last[0] - START
            back_end.add(*range(newest + 1, newest + 11))
            await trio_asyncio.trio_as_aio(has_read)(service, f"{newest + 10}-0")
        return info

    monkeypatch.setattr(lookup, "read_info", read_info_and_read_on)
    back_end.add(*range(1, 11))
    async with reading(port, history_messages=3) as service:
        client = came(service, "2-0")
        await until(lambda: 60 in told(client))
    assert told(client) == ["connected", *range(3, 61)]


async def test_what_is_trimmed_away_while_the_stream_is_read_is_told(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back, pages = log.read_back, 0

    async def read_back_and_trim(*arguments: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages == 2:
            back_end.xtrim("events", maxlen=15, approximate=False)
        return await read_back(*arguments)

    monkeypatch.setattr(lookup, "read_back", read_back_and_trim)
    monkeypatch.setattr(log, "PAGE", 5)
    back_end.add(*range(1, 31))
    async with reading(port, history_messages=1) as service:
        client = came(service, "2-0")
        await answered(client)
    assert told(client) == ["connected", "history_expired", *range(16, 31)]


async def test_one_walk_gives_each_what_its_memory_does_not(port: int, back_end: BackEnd) -> None:
    """Who has had messages by the channel of another process is told by the stream alone."""
    back_end.add(*range(1, 11))
    async with reading(port, history_messages=3) as service:
        back_end.config_resetstat()
        clients = [came(service, position) for position in (f"2-0/{PROCESS}.1", "2-0", "5-0")]
        await answered(*clients)
        assert lookups(back_end) == lookups_of(8)
    assert [told(client) for client in clients] == [
        ["connected", "unknown_id", *range(3, 11)],
        ["connected", *range(3, 11)],
        ["connected", *range(6, 11)],
    ]


async def test_after_the_stream_was_made_anew_with_later_ids_those_from_before_are_told_so(
    port: int, back_end: BackEnd
) -> None:
    async with reading(port, history_messages=1) as service:
        watcher = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(watcher))
        pipeline = back_end.pipeline()
        pipeline.delete("events")
        pipeline.xadd("events", {"payload": payload(20)}, id=real("20-0"))
        pipeline.execute()
        await until(lambda: 20 in told(watcher))
        back_end.add(30)
        await until(lambda: 30 in told(watcher))
        before, since = came(service, "10-0"), came(service, "20-0")
        await answered(before, since)
    assert told(before) == ["connected", "history_expired", 20, 30]
    assert told(since) == ["connected", 30]


async def test_an_entry_that_cannot_be_delivered_is_passed_over(port: int, back_end: BackEnd) -> None:
    back_end.add(1, 2)
    back_end.add_raw("3-0", {"message": "no payload"})
    back_end.add_raw("4-0", {"payload": "{"})
    back_end.add(5, 6)
    async with reading(port, history_messages=1) as service:
        client = came(service, "1-0")
        await answered(client)
    assert told(client) == ["connected", 2, 5, 6]
    assert service.counters.rejected == 0  # nobody published it now


async def test_after_the_stream_was_made_anew_older_ids_are_told_so(port: int, back_end: BackEnd) -> None:
    """Also those that may be of either stream: the new one began below the last id of the old one."""
    async with reading(port, history_messages=1) as service:
        watcher = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(watcher))
        pipeline = back_end.pipeline()
        pipeline.delete("events")
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        pipeline.execute()
        await until(lambda: "redis_reconnected" in told(watcher))
        back_end.add(11, 20, 30, 40)
        await until(lambda: 40 in told(watcher))
        clients = [came(service, f"{number}-0") for number in (9, 10, 12, 20, 30)]
        await answered(*clients)
    for client in clients[:3]:
        assert {"history_expired", "unknown_id"} & set(told(client))
        assert told(client)[-2:] == [30, 40]
    assert [told(client) for client in clients[3:]] == [["connected", 30, 40], ["connected", 40]]


async def test_from_the_very_first_entry_on_nothing_is_missing(port: int, back_end: BackEnd) -> None:
    """0-0 is the position in a stream that did not exist yet."""
    async with reading(port) as service:
        empty = came(service)
        assert ids(empty) == ["0-0"]
        back_end.add(*range(1, 6))
        await until(lambda: 5 in told(empty))
        again = came(service, "0-0")
    async with reading(port, history_messages=2) as service:
        elsewhere = came(service, "0-0")
        await answered(elsewhere)
    assert told(again) == told(elsewhere) == ["connected", 1, 2, 3, 4, 5]


async def test_a_position_ahead_of_this_process_waits_until_it_has_read_so_far(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "MAX_PENDING_BYTES", 0)
    async with reading(port, flushing=False) as service:
        came(service)
        back_end.add(1)
        await has_read(service, "1-0")  # and no further, before it is flushed
        back_end.add(2, 3, 4)
        client = came(service, "3-0")
        await until(lambda: not service.resumer.pending)
        await one_lookup(service, back_end)
        assert told(client) == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush_forever, service.hub)
            await until(lambda: 4 in told(client))
            nursery.cancel_scope.cancel()
    assert told(client) == ["connected", 4]
    assert ids(client) == ["3-0", "4-0"]


async def one_lookup(service: Service, back_end: BackEnd) -> None:
    """Have another question asked and answered: those before it have been looked at then."""
    other = came(service, f"{2**63}-0", user="bob")
    await answered(other)
    service.hub.leave(next(c for c in service.hub.connections if c.follows == "bob"))


async def test_what_the_channel_brings_to_one_who_waits_is_not_lost(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "MAX_PENDING_BYTES", 0)
    async with reading(port, flushing=False) as service:
        came(service)
        back_end.add(1)
        await has_read(service, "1-0")
        back_end.add(2, 3, 4)
        client = came(service, "3-0")
        await one_lookup(service, back_end)
        back_end.tell(100)
        await until(lambda: service.counters.received == 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush_forever, service.hub)
            await until(lambda: 4 in told(client))
            nursery.cancel_scope.cancel()
    assert 100 in told(client) or "unknown_id" in told(client)


async def test_one_too_slow_for_memory_goes_on_from_the_stream(port: int, back_end: BackEnd) -> None:
    async with reading(port, history_messages=5) as service:
        back_end.add(1)
        await has_read(service, "1-0")
        client = Client(opened(service, "ann", real("1-0")), busy=True)
        back_end.add(*range(2, 50))
        await has_read(service, "49-0")
        client.catch_up()
        await until(lambda: 49 in told(client))
    assert told(client) == ["connected", *range(2, 50)]


async def test_with_the_channel_in_use_one_too_slow_for_memory_gets_all_that_is_left_after_the_gap(
    port: int, back_end: BackEnd
) -> None:
    async with reading(port, history_messages=5) as service:
        back_end.add(1)
        await has_read(service, "1-0")
        client = Client(opened(service, "ann", real("1-0")), busy=True)
        for number in range(2, 10):
            back_end.tell(number)
        await until(lambda: service.counters.received == 9)
        client.catch_up()
        await until(lambda: "history_expired" in told(client))
        back_end.tell(10)
        await until(lambda: 10 in told(client))
    assert told(client) == ["connected", "history_expired", *range(5, 11)]


async def test_an_id_of_the_future_is_nobody_s(port: int, back_end: BackEnd) -> None:
    back_end.add(1, 2)
    async with reading(port) as service:
        clients = [came(service, position) for position in ("2-1", "9-0", f"{2**64}-{10**20 - 1}")]
        await answered(*clients)
        back_end.add(3)
        await until(lambda: all(3 in told(client) for client in clients))
    for client in clients:
        assert told(client) == ["connected", "unknown_id", 3]
        assert ids(client) == ["", "2-0", "3-0"]


async def test_one_walk_through_the_stream_serves_all_who_ask(port: int, back_end: BackEnd) -> None:
    """A crowd comes back at once when a service is deployed."""
    for number in range(1, 601):
        back_end.add(number, user="*" if number % 10 == 0 else str(number % 3))
    async with reading(port, history_messages=10) as service:
        back_end.config_resetstat()
        wanted = [(user, after) for user in "012" for after in range(0, 580, 20)]
        clients = [came(service, f"{after}-0", user=user) for user, after in wanted]
        await answered(*clients)
        assert lookups(back_end) == lookups_of(590)
    for client, (user, after) in zip(clients, wanted, strict=True):
        mine = [n for n in range(after + 1, 601) if n % 10 == 0 or n % 3 == int(user)]
        assert told(client) == ["connected", *mine]


async def test_who_left_is_not_looked_up_for(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 11))
    async with reading(port, history_messages=1) as service:
        back_end.config_resetstat()
        connection = opened(service, "ann", "1-0")
        service.hub.leave(connection)
        stays = came(service, "10-1")
        await answered(stays)
        assert lookups(back_end) == 0


async def test_a_lost_connection_does_not_lose_the_questions(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in the middle of the walk through the stream, which is long here."""
    monkeypatch.setattr(log, "PAGE", 1)
    back_end.add(*range(1, 301))
    async with reading(port, history_messages=10) as service:
        for _ in range(3):
            back_end.config_resetstat()
            client, left = came(service, "10-0"), came(service, "200-0")
            await until(lambda: lookups(back_end) > 20)
            back_end.client_kill_filter(_type="normal", skipme=True)
            service.hub.leave(next(c for c in service.hub.connections[-1:]))
            assert told(client) == []
            await answered(client)
            assert told(client) == ["connected", *range(11, 301)]
            assert told(left) == []
    assert service.counters.redis_reconnects == 3


def read_pages(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> list[list[int]]:
    """The sizes of the messages in each page of the stream that is read."""
    pages: list[list[int]] = []
    read_back, read_after = log.read_back, log.read_after

    async def back(*arguments: Any) -> Any:
        page = await read_back(*arguments)
        pages.append([len(payload or b"") for _, payload in page])
        return page

    async def after(*arguments: Any) -> Any:
        info, page = await read_after(*arguments)
        pages.append([len(payload or b"") for _, payload in page])
        return info, page

    for module in modules:
        monkeypatch.setattr(module, "read_back", back)
        monkeypatch.setattr(module, "read_after", after)
    return pages


@pytest.mark.parametrize("walk", [(2500, 4_194_304), (7, 4_194_304), (2500, 100), (1, 1)])
async def test_a_crowd_gets_its_pages_exactly_however_little_one_walk_may_read_or_hold(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch, walk: tuple[int, int]
) -> None:
    monkeypatch.setattr(lookup, "WALK_ENTRIES", walk[0])
    monkeypatch.setattr(lookup, "WALK_BYTES", walk[1])
    monkeypatch.setattr(replays, "PAGE_BYTES", 1000)
    for number in range(1, 201):
        back_end.add(number, user="*" if number % 10 == 0 else str(number % 3), padding=number % 7 * 50)
    async with reading(port, history_messages=10) as service:
        wanted = [(user, after) for user in "012" for after in (0, 1, 50, 77, 150)]
        clients = [came(service, f"{after}-0", user=user) for user, after in wanted]
        await until(lambda: all(200 in told(client) for client in clients))
    for client, (user, after) in zip(clients, wanted, strict=True):
        mine = [n for n in range(after + 1, 201) if n % 10 == 0 or n % 3 == int(user)]
        assert told(client) == ["connected", *mine]
        assert events(client.received)[0].json()["replayed"] == len(mine)


async def test_few_messages_in_a_long_stream_cost_two_looks_at_it(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to count them and one to give them, in which each walk goes on where the one before has come to."""
    monkeypatch.setattr(replays, "PAGE_BYTES", 100)
    monkeypatch.setattr(lookup, "WALK_ENTRIES", 200)
    for first in range(0, 2000, 500):
        back_end.add(first + 1)
        back_end.add(*range(first + 2, first + 501), user="bob")
    pages = read_pages(monkeypatch, lookup)
    async with reading(port, history_messages=1) as service:
        client = came(service, "0-0")
        await until(lambda: 1501 in told(client))
    assert told(client) == ["connected", 1, 501, 1001, 1501]
    assert sum(map(len, pages)) < 3 * 2000


async def test_what_is_trimmed_away_between_two_pages_is_told_in_its_place(
    port: int, back_end: BackEnd
) -> None:
    back_end.add(*range(1, 31), padding=30_000)
    async with reading(port, history_messages=1) as service:
        client = Client(opened(service, "ann", real("2-0")), busy=True)
        await until(lambda: client.take_page() and len(told(client)) > 3)
        last = told(client)[-1]
        assert isinstance(last, int)
        back_end.xtrim("events", maxlen=15, approximate=False)
        client.catch_up()
        await until(lambda: 30 in told(client))
        again = [came(service, position) for position in ids(client)[1:-1]]
        await until(lambda: all(30 in told(client) for client in again))
    assert told(client) == ["connected", *range(3, last + 1), "history_expired", *range(16, 31)]
    for number, other in zip(told(client)[1:-1], again, strict=True):
        missing: list[int | str] = [] if isinstance(number, int) and number >= 16 else ["history_expired"]
        begins = number + 1 if isinstance(number, int) and number >= 16 else 16
        assert told(other)[1:] == [*missing, *range(begins, 31)]


async def test_a_stream_that_is_made_anew_between_two_pages_is_told(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 31), padding=30_000)
    async with reading(port, history_messages=1) as service:
        client = Client(opened(service, "ann", real("2-0")), busy=True)
        await until(lambda: client.take_page() and len(told(client)) > 3)
        last = told(client)[-1]
        assert isinstance(last, int)
        pipeline = back_end.pipeline()
        pipeline.delete("events")
        pipeline.xadd("events", {"payload": payload(40)}, id=real("40-0"))
        pipeline.execute()
        await has_read(service, "40-0")
        client.catch_up()
        await until(lambda: 40 in told(client))
    before, after = told(client)[: last - 1], told(client)[last - 1 :]
    assert before == ["connected", *range(3, last + 1)]
    assert after[0] in ("history_expired", "unknown_id")
    assert after[-1] == 40


async def test_a_lost_connection_between_two_pages_loses_nothing(port: int, back_end: BackEnd) -> None:
    back_end.add(*range(1, 101), padding=30_000)
    async with reading(port, history_messages=1) as service:
        client = Client(opened(service, "ann", real("2-0")), busy=True)
        for _ in range(5):
            got = len(client.received)
            await until(lambda got=got: client.take_page() and len(client.received) > got)  # type: ignore[misc]
            back_end.client_kill_filter(_type="normal", skipme=True)
        client.catch_up()
        await until(lambda: 100 in told(client))
    assert [event for event in told(client) if event != "redis_reconnected"] == ["connected", *range(3, 101)]


async def test_one_who_is_ended_between_two_pages_comes_back_for_the_rest(
    port: int, back_end: BackEnd
) -> None:
    back_end.add(*range(1, 31), padding=30_000)
    async with reading(port, history_messages=1) as service:
        connection = opened(service, "ann", real("2-0"))
        client = Client(connection, busy=True)
        await until(lambda: client.take_page() and len(told(client)) > 3)
        connection.end(farewell("draining", 1))
        client.catch_up()
        again = came(service, ids(client)[-1])
        await until(lambda: 30 in told(again))
    assert told(client)[-1] == "draining"
    assert told(client)[1:-1] + told(again)[1:] == list(range(3, 31))


async def test_of_large_entries_few_are_read_at_a_time(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, while the stream is followed, and for those who come back."""
    large = 60_000
    monkeypatch.setattr(log, "PAGE_BYTES", 100_000)
    pages = read_pages(monkeypatch, lookup, log_reader)
    back_end.add(*range(1, 11), padding=large)
    async with reading(port, history_messages=2) as service:
        client = came(service, "2-0")
        await until(lambda: 10 in told(client))
        back_end.add(*range(11, 21), padding=large)
        await until(lambda: 20 in told(client))
    assert told(client) == ["connected", *range(3, 21)]
    assert max(map(sum, pages)) < 4 * large
    assert sum(map(len, pages)) >= 18 + 8  # those of the replay are looked at twice


async def test_what_is_too_large_to_be_delivered_is_not_kept_while_memory_is_filled(
    port: int, back_end: BackEnd
) -> None:
    back_end.add(1, 2)
    back_end.add(*range(3, 10), padding=60_000)
    async with reading(port, max_message_bytes=1000, history_bytes=10_000) as service:
        assert len(service.history) == 2
        assert told(came(service, "1-0")) == ["connected", 2]
