"""A log in partitions, from a real Redis to streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
import trio
from structlog.testing import capture_logs

from tests.support.inside import Client, events, until
from tests.support.partitioned import LAYOUT, Log, connected, log_at, partitioned
from tests.support.valkeys import breakable
from trio_sse.broker import attempts
from trio_sse.delivery import lanes
from trio_sse.delivery.partitions import Layout, parse_place
from trio_sse.delivery.targets import each, followed

TOPICS = [f"t{number}" for number in range(6)]


@pytest.fixture(autouse=True)
def _empty(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.flushall()


@pytest.fixture
def log(port: int) -> Iterator[Log]:
    with log_at(port) as log:
        yield log


def partitions(user: str, topics: list[str]) -> set[int]:
    return set(LAYOUT.numbers(each(followed(user, topics))))


def has(client: Client, count: int) -> bool:
    return len(client.numbers) >= count


def last_id(client: Client) -> str:
    return events(client.received)[-1].id


async def test_a_stream_gets_what_is_for_it_from_whichever_partition(port: int, log: Log) -> None:
    assert len(partitions("42", TOPICS)) > 2
    async with partitioned(port) as running:
        many, one, other = running.join("42", TOPICS), running.join("42"), running.join("7")
        await connected(many, one, other)
        for topics in TOPICS:
            log.add(topics=[topics])
        log.add(["42"])
        log.add(["7"])
        log.add(["42", "7"], TOPICS)
        log.add()
        await until(lambda: len(many.numbers) == 9 and len(one.numbers) == 3 and len(other.numbers) == 3)
        assert sorted(many.numbers) == [1, 2, 3, 4, 5, 6, 7, 9, 10]
        assert sorted(one.numbers) == [7, 9, 10]
        assert sorted(other.numbers) == [8, 9, 10]
        place = parse_place(last_id(many))
        assert place is not None
        assert {partition.number for partition in place.parts} == partitions("42", TOPICS)
        assert None not in place.parts.values()
        assert many.notices == one.notices == ["connected"]


@pytest.mark.parametrize("remembers", [True, False], ids=["memory", "log"])
async def test_any_id_resumes_without_loss_or_repetition(port: int, log: Log, *, remembers: bool) -> None:
    kept: dict[str, Any] = {} if remembers else {"history_messages": 1}
    async with partitioned(port, **kept) as running, partitioned(port, **kept) as elsewhere:
        whole = running.join("42", TOPICS)
        await connected(whole)
        for number in range(8):
            log.add(topics=[TOPICS[number % 6]])
            log.add(["42"], TOPICS[:number])
            log.add()
        await until(lambda: len(whole.numbers) == 24)
        told = events(whole.received)
        for place in (running, elsewhere):
            for at, event in enumerate(told):
                client = place.join("42", TOPICS, last_event_id=event.id)
                before = [earlier.json()["n"] for earlier in told[: at + 1] if earlier.event == "message"]
                await connected(client)
                await until(partial(has, client, 24 - len(before)))
                assert sorted(before + client.numbers) == list(range(1, 25))
                assert client.notices == ["connected"]
                assert events(client.received)[0].json()["replayed"] == 24 - len(before)
                place.leave(client)


async def test_a_partition_is_read_while_somebody_follows_what_is_in_it(
    port: int, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LINGER_SECONDS", 0.0)
    async with partitioned(port) as running:
        assert running.service.lanes is not None
        read = running.service.lanes.lanes
        ann, bob = running.join("ann"), running.join("bob", ["news"])
        await connected(ann, bob)
        assert {one.number for one in read} == partitions("ann", []) | partitions("bob", ["news"])
        running.leave(bob)
        await until(lambda: {one.number for one in read} == partitions("ann", []))
        log.add(["bob"])
        again = running.join("bob", ["news"], rewind=5)
        await connected(again)
        await until(lambda: again.numbers == [1])


async def test_rewind_goes_back_in_all_partitions_together(port: int, log: Log) -> None:
    now = round(time.time() * 1000)
    for number in range(12):
        log.entry = f"{now - 100 + number}-0"
        log.add(topics=[TOPICS[number % 6]])
    log.entry = "*"
    log.add(["42"], TOPICS)
    async with partitioned(port) as running:
        client = running.join("42", TOPICS, rewind=5)
        await until(lambda: len(client.numbers) == 5)
        assert sorted(client.numbers) == [9, 10, 11, 12, 13]
        assert events(client.received)[0].json()["replayed"] == 5


async def test_since_a_time_and_the_newest_of_each_key(port: int, log: Log) -> None:
    for number in range(4):
        log.add(topics=[TOPICS[number]], key="price")
        log.add(["42"], TOPICS, key="all")
    async with partitioned(port) as running:
        since = running.join("42", TOPICS, seconds=3600.0)
        await until(lambda: len(since.numbers) == 8)
        assert since.notices[:1] == ["connected"]
        client = running.join("42", TOPICS, snapshot=True)
        await until(lambda: client.notices == ["connected", *["snapshot"] * len(partitions("42", TOPICS))])
        assert sorted(client.numbers) == [1, 3, 5, 7, 8]
        log.add(["42"])
        await until(lambda: len(client.numbers) == 6)
        place = parse_place(last_id(client))
        assert place is not None
        assert len(place.parts) == len(partitions("42", TOPICS))


async def test_an_id_of_a_publisher_serves_those_who_follow_something_else_too(port: int, log: Log) -> None:
    log.add(["42"])
    published = f"8~{LAYOUT.of('42')}.0-0"
    async with partitioned(port) as running:
        client = running.join("42", TOPICS, last_event_id=published)
        await until(lambda: client.numbers == [1])
        assert client.notices == ["connected"]


async def test_who_comes_back_with_a_topic_more_gets_what_came_since(port: int, log: Log) -> None:
    async with partitioned(port) as running:
        first = running.join("42")
        await connected(first)
        log.add(["42"])
        await until(lambda: first.numbers == [1])
        running.leave(first)
        log.add(topics=TOPICS[:1])
        again = running.join("42", TOPICS, last_event_id=last_id(first))
        await until(lambda: again.numbers == [2])
        assert again.notices == ["connected"]


async def test_who_comes_back_with_a_topic_less_is_told_that_something_may_be_missing(
    port: int, log: Log
) -> None:
    async with partitioned(port) as running:
        first = running.join("42", TOPICS)
        await connected(first)
        log.add()
        await until(lambda: first.numbers == [1])
        again = running.join("42", last_event_id=last_id(first))
        await until(lambda: again.notices == ["connected", "gap"])
        assert events(again.received)[1].json()["reason"] == "unknown_id"
        log.add(["42"])
        await until(lambda: again.numbers == [2])


@pytest.mark.parametrize("sent", ["x", "9f3c12ab77de.42", "4:1.abc", "8:-", "1-1"])
async def test_an_id_from_elsewhere_is_a_gap(port: int, log: Log, sent: str) -> None:
    async with partitioned(port) as running:
        client = running.join("42", last_event_id=sent)
        await until(lambda: "gap" in client.notices)
        log.add(["42"])
        await until(lambda: client.numbers == [1])


async def test_the_log_that_is_replaced_is_read_too(port: int, log: Log) -> None:
    """The way from one key, or from another number of them, without loss."""
    with log_at(port, Layout("events", 0)) as old, log_at(port, Layout("notes3", 3)) as newer:
        async with partitioned(port, redis_stream_before="events") as running:
            old.add(["42"])
            entry = redis.Redis(port=port).xinfo_stream("events")["last-generated-id"].decode()
            old.add(["42"], TOPICS)
            log.count = 10
            client = running.join("42", TOPICS, last_event_id=entry)
            await until(lambda: client.numbers == [2])
            log.add(["42"], TOPICS)
            old.add()
            log.add()
            await until(lambda: sorted(client.numbers) == [2, 3, 11, 12])
            assert client.notices == ["connected"]
            between = last_id(client)
        async with partitioned(
            port, redis_stream="notes3", stream_partitions=3, redis_stream_before="notes/8"
        ) as running:
            newer.count = 20
            newer.add(["42"], TOPICS)
            log.add(["42"], TOPICS)
            client = running.join("42", TOPICS, last_event_id=between)
            await until(lambda: sorted(client.numbers) == [13, 21])


async def test_a_message_in_a_partition_of_nobody_it_is_for_is_refused(port: int, log: Log) -> None:
    async with partitioned(port) as running:
        client = running.join("42")
        await connected(client)
        wrong = LAYOUT.name(LAYOUT.of("42"))
        other = next(str(number) for number in range(100) if LAYOUT.of(str(number)) != LAYOUT.of("42"))
        redis.Redis(port=port).xadd(wrong, {"payload": f'{{"user_id":"{other}","n":0}}'})
        await until(lambda: running.service.counters.rejected == 1)


async def test_without_redis_streams_begin_and_are_told_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_SECONDS", (0.05, 0.2))
    with breakable(started=False) as server:
        async with partitioned(server.port) as running:
            client = running.join("42", TOPICS)
            await connected(client)
            assert running.service.not_ready() is not None
            await trio.to_thread.run_sync(server.start)
            count = len(partitions("42", TOPICS))
            await until(lambda: client.notices.count("gap") == count)
            assert {event.json()["reason"] for event in events(client.received) if event.event == "gap"} == {
                "redis_reconnected"
            }
            with log_at(server.port) as log:
                log.add(["42"], TOPICS)
            await until(lambda: client.numbers == [1])
            await until(lambda: running.service.not_ready() is None)


async def test_after_a_lost_redis_that_kept_its_data_nothing_is_missing(port: int, log: Log) -> None:
    async with partitioned(port) as running:
        client = running.join("42", TOPICS)
        await connected(client)
        for _ in range(5):
            with redis.Redis(port=port) as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
            last = log.add(["42"], TOPICS)
            await until(partial(has, client, last))
        assert client.notices == ["connected"]


async def test_one_who_reads_too_slowly_is_told_and_comes_back_for_it(port: int, log: Log) -> None:
    async with partitioned(port, buffer=2) as running:
        client, other = running.join("42", TOPICS), running.join("42", TOPICS)
        await connected(client, other)
        client.busy = True
        for _ in range(10):
            log.add(["42"])
            log.add(topics=TOPICS[:1])
        await until(lambda: len(other.numbers) == 20)
        client.catch_up()
        gaps = [event for event in events(client.received) if event.event == "gap"]
        assert len(client.numbers) + sum(event.json()["dropped"] for event in gaps) == 20
        again = running.join("42", TOPICS, last_event_id=last_id(client))
        log.add(["42"])
        await until(lambda: again.numbers == [21])


async def test_a_stream_that_ends_says_so_once_behind_what_it_has(port: int, log: Log) -> None:
    async with partitioned(port) as running:
        client = running.join("42", TOPICS)
        await connected(client)
        (connection,) = running.service.hub.connections
        client.busy = True
        log.add(["42"], TOPICS)
        log.add(topics=TOPICS[3:4])
        await until(lambda: running.service.counters.received >= 2)
        await trio.testing.wait_all_tasks_blocked(0.1)
        connection.end(b"event: bye\ndata: x\n\n")
        assert client.closed
        client.catch_up()
        assert sorted(client.numbers) == [1, 2]
        assert client.notices == ["connected", "bye"]
        running.leave(client)
        assert running.service.lanes is not None
        assert all(not len(lane.hub) for lane in running.service.lanes.lanes.values())


async def test_a_lost_redis_has_few_lines_however_many_partitions_were_read() -> None:
    with breakable() as server:
        async with partitioned(server.port) as running:
            client = running.join("42", TOPICS)
            await connected(client)
            with capture_logs() as lines:
                server.kill()
                await until(lambda: running.service.not_ready() is not None)
                await trio.sleep(0.3)
            problems = [line for line in lines if line["event"] == "lost Redis, trying again"]
            assert 1 <= len(problems) <= 2
