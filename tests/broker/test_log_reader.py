"""From a real Redis stream to the hub: the start, the following, and what Redis may do meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import PROCESS, Client, flush_now, opened, until
from tests.support.log import (
    DATABASE,
    KEY,
    BackEnd,
    came,
    durable,
    has_read,
    ids,
    new_service,
    payload,
    reading,
    real,
    told,
)
from trio_sse.broker import log, log_reader
from trio_sse.broker.link import CONNECT_SECONDS
from trio_sse.delivery.flusher import flush_forever


def now() -> int:
    """Milliseconds, as the ids of a stream count them."""
    return time.time_ns() // 1_000_000


async def test_what_is_added_reaches_the_clients_of_its_user(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        ann, bob = came(service), came(service, user="bob")
        back_end.add(5, 6)
        back_end.add(7, user="bob")
        back_end.add(8, user="*")
        await until(lambda: 8 in told(ann) and 8 in told(bob))
    assert told(ann) == ["connected", 5, 6, 8]
    assert told(bob) == ["connected", 7, 8]
    assert ids(ann) == ["0-0", "5-0", "6-0", "8-0"]
    assert service.counters.received == 4


async def test_many_entries_arrive_in_order(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        client = came(service)
        back_end.add(*range(1, 1001))
        await until(lambda: 1000 in told(client))
    assert told(client) == ["connected", *range(1, 1001)]


async def test_what_one_read_brought_leaves_without_the_flusher(port: int, back_end: BackEnd) -> None:
    service = new_service(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.subscriber.run)
        client = came(service)
        back_end.add(*range(1, 6))
        await until(lambda: told(client)[1:] == [1, 2, 3, 4, 5])
        assert not service.hub.pending.is_set()
        nursery.cancel_scope.cancel()


async def test_a_new_client_gets_nothing_from_before(port: int, back_end: BackEnd) -> None:
    back_end.add(1, 2)
    async with reading(port) as service:
        client = came(service)
        back_end.add(3)
        await until(lambda: 3 in told(client))
    assert told(client) == ["connected", 3]
    assert ids(client)[0] == "2-0"


async def test_an_entry_that_cannot_be_delivered_is_counted_and_skipped(port: int, back_end: BackEnd) -> None:
    with capture_logs() as lines:
        async with reading(port) as service:
            client = came(service)
            back_end.add_raw("1-0", {"message": payload(1)})
            back_end.add_raw("2-0", {"payload": b"\xff"})
            back_end.add_raw("3-0", {"other": "x", "payload": payload(3)})
            back_end.add_raw("4-0", {"payload": "{"})
            await until(lambda: service.counters.rejected == 3)
    assert told(client) == ["connected", 3]
    (line,) = [line for line in lines if line["event"] == "message skipped"]
    assert "SSE_REDIS_STREAM" in line["reason"]
    assert "payload" in line["reason"]


async def test_an_entry_s_time_is_that_of_its_id_each_time_it_is_read(port: int, back_end: BackEnd) -> None:
    before = now()
    back_end.xadd(KEY, {"payload": '{"user_id":"ann"}'}, id="1767269045006-0")
    back_end.xadd(KEY, {"payload": '{"user_id":"ann"}'})
    async with reading(port) as service, reading(port, history_seconds=0) as other:
        clients = [came(service, "0-0"), came(other, "0-0")]
        await until(lambda: all("message" in client.names for client in clients))
    first, second = ([json.loads(data) for data in client.data[1:]] for client in clients)
    assert first == second
    assert first[0]["created_at"] == "2026-01-01T12:04:05.006Z"
    assert first[1]["created_at"][:10] >= time.strftime("%Y-%m-%d", time.gmtime(before / 1000))


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"history_messages": 4}, [3, 4, 5, 6]),
        ({"history_messages": 0}, []),
        ({"history_seconds": 250}, [3, 4, 5, 6]),
        ({"history_bytes": 9000}, [5, 6]),
        ({"history_bytes": 0}, []),
    ],
)
async def test_at_the_start_memory_is_filled_from_the_stream_within_its_bounds(
    port: int, back_end: BackEnd, bounds: dict[str, Any], kept: list[int]
) -> None:
    """Entries a minute or more apart, each of about 3000 bytes."""
    start = now()
    for number, age in zip(range(1, 7), (299, 270, 200, 100, 10, 0), strict=True):
        entry = f"{start - 1000 * age + 500 * (age > 0)}-0"
        back_end.xadd(KEY, {"payload": payload(number, padding=3000)}, id=entry)
    async with reading(port, **bounds) as service:
        assert len(service.history) == len(kept)
        page, *_ = service.history.page("ann", 0, 10**6)
        assert [json.loads(part[6:])["number"] for part in page.split(b"\n") if b"data: " in part] == kept
        client = came(service, "0-0")
        await until(lambda: 6 in told(client))
    assert told(client) == ["connected", 1, 2, 3, 4, 5, 6]


async def test_the_age_of_an_entry_counts_from_its_id(port: int, back_end: BackEnd) -> None:
    """Filled at the start or followed since, it is let go at the same time."""
    back_end.xadd(KEY, {"payload": payload(1)}, id=f"{now() - 4000}-0")
    async with reading(port, history_seconds=5) as service:
        assert len(service.history) == 1
        began = trio.current_time()

        def all_gone() -> bool:
            service.history.evict()
            return not len(service.history)

        await until(all_gone)
        assert trio.current_time() - began < 3


async def test_what_cannot_be_delivered_fills_no_memory(port: int, back_end: BackEnd) -> None:
    start = now()
    for number in range(600):  # several pages
        fields: dict[Any, Any] = {"payload": "{"} if number % 2 else {"message": "x"}
        if number % 100 == 0:
            fields = {"payload": payload(number)}
        back_end.xadd(KEY, fields, id=f"{start}-{number}")
    async with reading(port) as service:
        assert len(service.history) == 6
        assert service.counters.rejected == service.counters.received == 0
        client = Client(opened(service, "ann", f"{start}-100"))
        assert told(client) == ["connected", 200, 300, 400, 500]


async def test_a_key_of_another_type_is_a_problem_that_names_the_setting(
    port: int, back_end: BackEnd
) -> None:
    back_end.set(KEY, "text")
    async with reading(port) as service:
        assert "SSE_REDIS_STREAM" in (service.not_ready() or "")
        back_end.delete(KEY)
        await until(lambda: service.not_ready() is None)


async def test_with_the_channel_in_use_too_ids_are_made_of_both(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        client = came(service)
        process = service.history.sources.process
        await until(lambda: service.history.sources.caught_up_at == 0)
        for number in (1, 2, 3, 4):
            if number % 2:
                back_end.add(number)
            else:
                back_end.tell(number)
            await until(lambda number=number: number in told(client))  # type: ignore[misc]
        assert ids(client)[1:] == ["1-0", f"1-0/{process}.2", f"3-0/{process}.3", f"3-0/{process}.4"]
        again = [came(service, position) for position in ids(client)]
        elsewhere = came(service, f"1-0/{PROCESS}.2")
        await until(lambda: 3 in told(elsewhere))
    # The first id is also that of clients who were elsewhere before this process listened to the channel.
    assert told(again[0]) == ["connected", "unknown_id", 1, 2, 3, 4]
    for number, client in enumerate(again[1:], 1):
        assert told(client) == ["connected", *range(number + 1, 5)]
    assert told(elsewhere) == ["connected", "unknown_id", 3]


async def test_redis_is_read_no_further_while_too_much_waits_for_the_flusher(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "MAX_PENDING_BYTES", 0)
    async with reading(port, flushing=False) as service:
        client = came(service)
        back_end.add(1)
        await has_read(service, "1-0")
        back_end.add(2, 3)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert service.counters.received == 1
        flush_now(service.hub)
        await has_read(service, "3-0")
        flush_now(service.hub)
    assert told(client) == ["connected", 1, 2, 3]


async def test_a_broken_connection_costs_nothing(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        client = came(service)
        for number in range(1, 100):
            back_end.add(number)
            if number % 20 == 0:
                back_end.client_kill_filter(_type="pubsub")
                back_end.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: 99 in told(client))
    assert told(client) == ["connected", *range(1, 100)]
    assert service.counters.redis_reconnects > 0


@pytest.mark.parametrize("trimmed", [False, True])
async def test_what_is_added_while_redis_is_lost_is_no_loss_however_often(
    port: int, back_end: BackEnd, trimmed: bool
) -> None:
    """With all trimmed away each time that was read before, what was added and what was read must agree."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(1)
        await until(lambda: 1 in told(client))
        for number in (2, 7, 12):
            pipeline = back_end.pipeline()
            pipeline.client_kill_filter(_type="normal", skipme=True)
            pipeline.client_kill_filter(_type="pubsub")
            for entry in range(number, number + 5):
                fields: dict[Any, Any] = {"payload": payload(entry)}
                pipeline.xadd(KEY, fields, id=real(f"{entry}-0"))
            if trimmed:
                pipeline.xtrim(KEY, maxlen=5, approximate=False)
            pipeline.execute()
            await until(lambda last=number + 4: last in told(client))  # type: ignore[misc]
    assert told(client) == ["connected", *range(1, 17)]
    assert service.counters.redis_reconnects >= 3


async def test_what_is_added_while_memory_is_filled_is_followed_and_counted(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_info = log.read_info
    adding = iter([(2, 3, 4)])

    async def read_info_and_add(redis: Any, key: str) -> Any:
        info = await read_info(redis, key)
        back_end.add(*next(adding, ()))
        return info

    monkeypatch.setattr(log_reader, "read_info", read_info_and_add)
    back_end.add(1)
    async with reading(port) as service:
        client = came(service, "1-0")
        await until(lambda: 4 in told(client))
        pipeline = back_end.pipeline()
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        for entry in (5, 6):
            pipeline.xadd(
                KEY, {"payload": payload(entry)}, id=real(f"{entry}-0"), maxlen=2, approximate=False
            )
        pipeline.execute()
        await until(lambda: 6 in told(client))
    assert told(client) == ["connected", *range(2, 7)]


async def test_filling_memory_may_take_longer_than_one_answer(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    read_back = log.read_back

    async def read_back_slowly(*arguments: Any) -> Any:
        mock_clock.jump(CONNECT_SECONDS / 2)
        return await read_back(*arguments)

    monkeypatch.setattr(log_reader, "read_back", read_back_slowly)
    back_end.add(*range(1, 1001))
    async with reading(port) as service:
        assert service.not_ready() is None
        assert len(service.history) == 1000


async def test_with_the_channel_in_use_a_broken_connection_is_told(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        client = came(service)
        back_end.tell(1)
        await until(lambda: 1 in told(client))
        back_end.client_kill_filter(_type="pubsub")
        await until(lambda: "redis_reconnected" in told(client))


async def test_killed_and_started_again_redis_costs_nothing(tmp_path: Path) -> None:
    with durable(tmp_path) as server:
        async with reading(server.port, redis_main_db=DATABASE) as service:
            client = came(service)
            with BackEnd(server.port) as back_end:
                back_end.add(1, 2)
            await until(lambda: 2 in told(client))
            await server.in_thread(server.kill)
            await until(service.not_ready)
            await server.in_thread(server.start)
            with BackEnd(server.port) as back_end:
                back_end.add(3)
                await until(lambda: 3 in told(client))
                assert service.not_ready() is None
                again = came(service, "1-0")
    assert told(client) == ["connected", 1, 2, 3]
    assert told(again) == ["connected", 2, 3]


async def test_clients_who_come_while_redis_is_away_are_told_once_it_is_there(tmp_path: Path) -> None:
    with durable(tmp_path) as server:
        with BackEnd(server.port) as back_end:
            back_end.add(1, 2, 3)
        await server.in_thread(server.kill)
        async with reading(server.port) as service:
            new, back, foreign = came(service), came(service, "1-0"), came(service, "nonsense")
            assert (told(new), told(back)) == (["connected"], [])
            assert told(foreign) == ["connected", "unknown_id"]
            await server.in_thread(server.start)
            await until(lambda: 3 in told(back))
            await until(lambda: "redis_reconnected" in told(new))
    assert told(new) == ["connected", "redis_reconnected"]
    assert [event for event in told(back) if event != "redis_reconnected"] == ["connected", 2, 3]


async def test_a_stream_that_was_made_anew_is_told_and_followed(port: int, back_end: BackEnd) -> None:
    """By an operator, or by a Redis that lost everything."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(client))
        pipeline = back_end.pipeline()
        pipeline.delete(KEY)
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        pipeline.execute()
        await until(lambda: "redis_reconnected" in told(client))
        back_end.add(5)
        await until(lambda: 5 in told(client))
        await has_read(service, "5-0")
    assert told(client) == ["connected", 10, 11, 12, "redis_reconnected", 5]


@pytest.mark.parametrize("numbers", [(20,), (5, 20)])
async def test_a_stream_that_is_made_anew_while_it_is_followed_is_told_and_followed(
    port: int, back_end: BackEnd, numbers: tuple[int, ...]
) -> None:
    """No connection is lost: somebody deleted the key. The gap stands for what has an id of before."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(client))
        pipeline = back_end.pipeline()
        pipeline.delete(KEY)
        for number in numbers:
            fields: dict[Any, Any] = {"payload": payload(number)}
            pipeline.xadd(KEY, fields, id=real(f"{number}-0"))
        pipeline.execute()
        await until(lambda: "redis_reconnected" in told(client))
        back_end.add(21)
        await until(lambda: 21 in told(client))
    assert told(client) == ["connected", 10, 11, 12, "redis_reconnected", 20, 21]
    assert service.counters.redis_reconnects == 0


async def test_a_stream_that_was_made_anew_with_later_ids_is_told_and_nothing_of_it_is_missed(
    port: int, back_end: BackEnd
) -> None:
    async with reading(port) as service:
        client = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(client))
        pipeline = back_end.pipeline()
        pipeline.delete(KEY)
        pipeline.xadd(KEY, {"payload": payload(20)}, id=real("20-0"))
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        pipeline.execute()
        await until(lambda: 20 in told(client))
        again = came(service, "10-0")
        await until(lambda: 20 in told(again))
    assert told(client) == ["connected", 10, 11, 12, "redis_reconnected", 20]
    assert told(again)[1] in ("history_expired", "redis_reconnected")


async def test_whoever_comes_with_an_id_of_another_stream_to_a_new_process_is_told(
    port: int, back_end: BackEnd
) -> None:
    """Redis has lost everything, and the service was started again too."""
    back_end.add(20, 21)
    async with reading(port) as service:
        before, at_first, here = came(service, "10-0"), came(service, "0-0"), came(service, "20-0")
        await until(lambda: all(21 in told(client) for client in (before, at_first, here)))
    assert told(before) == ["connected", "history_expired", 20, 21]
    assert told(at_first) == ["connected", 20, 21]
    assert told(here) == ["connected", 21]


async def test_each_time_that_a_stream_is_made_anew_with_later_ids_it_is_told(
    port: int, back_end: BackEnd
) -> None:
    """A Redis that keeps nothing has crashed again and again. When the service comes back, the new stream may
    have more entries than the one before."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(1, 2)
        await until(lambda: 2 in told(client))
        for first in (10, 20, 30):
            numbers = range(first, first + first // 10 + 2)
            pipeline = back_end.pipeline()
            pipeline.delete(KEY)
            for number in numbers:
                fields: dict[Any, Any] = {"payload": payload(number)}
                pipeline.xadd(KEY, fields, id=real(f"{number}-0"))
            pipeline.client_kill_filter(_type="normal", skipme=True)
            pipeline.client_kill_filter(_type="pubsub")
            pipeline.execute()
            await until(lambda last=numbers[-1]: last in told(client))  # type: ignore[misc]
    assert told(client) == [
        "connected",
        *(1, 2, "redis_reconnected"),
        *(10, 11, 12, "redis_reconnected"),
        *(20, 21, 22, 23, "redis_reconnected"),
        *(30, 31, 32, 33, 34),
    ]


async def test_whoever_comes_from_before_a_stream_was_made_anew_is_told(port: int, back_end: BackEnd) -> None:
    """The clock of a new master may be behind: its ids then begin below the last that clients have."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(10, 11, 12)
        await until(lambda: 12 in told(client))
        service.hub.leave(service.hub.connections[0])
        pipeline = back_end.pipeline()
        pipeline.delete(KEY)
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        pipeline.execute()
        await until(lambda: service.counters.redis_reconnects)
        back_end.add(11, 20)
        await has_read(service, "20-0")
        again = came(service, "12-0")
        await until(lambda: 20 in told(again))
    assert told(again)[1] in ("history_expired", "redis_reconnected", "unknown_id", 11)


async def test_what_was_trimmed_away_before_it_was_read_is_told_in_its_place(
    port: int, back_end: BackEnd
) -> None:
    async with reading(port) as service:
        client = came(service)
        back_end.add(1)
        await until(lambda: 1 in told(client))
        pipeline = back_end.pipeline()
        pipeline.client_kill_filter(_type="normal", skipme=True)
        pipeline.client_kill_filter(_type="pubsub")
        for number in (2, 3, 4):
            entry: dict[Any, Any] = {"payload": payload(number)}
            pipeline.xadd(KEY, entry, id=real(f"{number}-0"), maxlen=1, approximate=False)
        pipeline.execute()
        await until(lambda: 4 in told(client))
        again = came(service, "1-0")
    assert told(client) == ["connected", 1, "history_expired", 4]
    assert told(again) == ["connected", "history_expired", 4]


async def test_a_loss_is_told_once(port: int, back_end: BackEnd) -> None:
    """After it, what was added and what was read agree again."""
    async with reading(port) as service:
        client = came(service)
        back_end.add(1)
        await until(lambda: 1 in told(client))
        for number in (2, 6):
            pipeline = back_end.pipeline()
            pipeline.client_kill_filter(_type="normal", skipme=True)
            pipeline.client_kill_filter(_type="pubsub")
            for entry in range(number, number + 4):
                fields: dict[Any, Any] = {"payload": payload(entry)}
                pipeline.xadd(KEY, fields, id=real(f"{entry}-0"))
            pipeline.xtrim(KEY, maxlen=2 if number == 2 else 4, approximate=False)
            pipeline.execute()
            await until(lambda last=number + 3: last in told(client))  # type: ignore[misc]
    assert told(client) == ["connected", 1, "history_expired", 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("count", [20, 600])
async def test_what_is_trimmed_away_while_the_service_is_behind_is_told_in_its_place(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(log_reader, "MAX_PENDING_BYTES", 0)
    async with reading(port, flushing=False) as service:
        client = came(service)
        back_end.add(1)
        await has_read(service, "1-0")
        back_end.add(*range(2, count + 1), maxlen=count // 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush_forever, service.hub)
            await until(lambda: count in told(client))
            nursery.cancel_scope.cancel()
    assert told(client) == ["connected", 1, "history_expired", *range(count // 2 + 1, count + 1)]


async def test_what_was_trimmed_after_it_was_read_is_nobody_s_loss(port: int, back_end: BackEnd) -> None:
    async with reading(port) as service:
        client = came(service)
        for number in range(1, 20):
            back_end.add(number, maxlen=1)
            await until(lambda number=number: number in told(client))  # type: ignore[misc]
        back_end.client_kill_filter(_type="normal", skipme=True)
        back_end.client_kill_filter(_type="pubsub")
        await until(lambda: service.counters.redis_reconnects)
        back_end.add(20)
        await until(lambda: 20 in told(client))
        again = came(service, "3-0")
    assert told(client) == ["connected", *range(1, 21)]
    assert told(again) == ["connected", *range(4, 21)]
