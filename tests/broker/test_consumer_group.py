"""A real log, read by members of one group that come, die and find it trimmed or gone."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from tests.support.routed import at, in_asyncio
from trio_sse.broker import consumer_group
from trio_sse.broker.consumer_group import ConsumerGroup, Taken
from trio_sse.broker.link import Link, open_link


class Log(redis.Redis):
    """A log of its own."""

    def __init__(self, port: int) -> None:
        super().__init__(port=port)
        self.port = port
        self.key = f"log-{secrets.token_hex(4)}"

    def add(self, *numbers: int, **trim: Any) -> None:
        for number in numbers:
            self.xadd(self.key, {"other": "x", "payload": str(number)}, approximate=False, **trim)

    @contextlib.asynccontextmanager
    async def member(self, name: str = "a") -> AsyncIterator[tuple[ConsumerGroup, Link]]:
        async with open_link(at(self.port)) as link:
            yield ConsumerGroup(self.key, "g", name), link


@pytest.fixture
def log(valkey: int) -> Iterator[Log]:
    with Log(valkey) as found:
        yield found


def of(taken: Taken) -> list[int | None]:
    return [None if payload is None else int(payload) for _, payload in taken.entries]


async def take(group: ConsumerGroup, link: Link, count: int) -> tuple[list[int | None], bool]:
    """So many entries, finished, and whether any are missing."""
    found: list[int | None] = []
    missing = False
    while len(found) < count:
        taken = await group.take(link)
        missing = missing or taken.missing
        found += of(taken)
        if taken.entries:
            await group.finish(link, [number for number, _ in taken.entries])
    return found, missing


def test_each_entry_from_the_making_of_the_group_on_is_read_once(log: Log) -> None:
    log.add(1)

    async def test() -> None:
        async with log.member() as (group, link):
            assert await group.enter(link)
            log.add(*range(2, 800))
            assert await take(group, link, 798) == ([*range(2, 800)], False)
        async with log.member("b") as (group, link):
            assert not await group.enter(link)
            log.add(800)
            assert await take(group, link, 1) == ([800], False)

    in_asyncio(test)


def test_members_share_the_work(log: Log) -> None:
    async def test() -> None:
        async with log.member("a") as (first, one), log.member("b") as (second, other):
            await first.enter(one)
            await second.enter(other)
            log.add(*range(300))
            found: list[list[int | None]] = [[], []]
            while sum(map(len, found)) < 300:
                for place, (group, link) in enumerate(((first, one), (second, other))):
                    if sum(map(len, found)) < 300:
                        found[place] += (await take(group, link, 1))[0]
            assert sorted(number or 0 for part in found for number in part) == [*range(300)]
            assert all(found)

    in_asyncio(test)


def test_what_a_member_had_taken_comes_first_when_it_is_back(log: Log) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(1, 2, 3)
            taken: list[int | None] = []
            while len(taken) < 3:
                taken += of(await group.take(link))
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(4)
            assert await take(group, link, 4) == ([1, 2, 3, 4], False)
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(5)
            assert await take(group, link, 1) == ([5], False)

    in_asyncio(test)


def test_what_a_dead_member_had_taken_is_taken_over(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_group, "IDLE_SECONDS", 0)

    async def test() -> None:
        async with log.member("dead") as (group, link):
            await group.enter(link)
            log.add(*range(10))
            taken = await group.take(link)
            while len(taken.entries) < 10:
                taken = Taken(taken.entries + (await group.take(link)).entries, missing=False)
        async with log.member("b") as (group, link):
            await group.enter(link)
            assert await take(group, link, 10) == ([*range(10)], False)

    in_asyncio(test)


def test_what_is_still_being_worked_at_is_left_alone(log: Log) -> None:
    async def test() -> None:
        async with log.member("a") as (first, one), log.member("b") as (second, other):
            await first.enter(one)
            await second.enter(other)
            log.add(1)
            assert of(await first.take(one)) == [1]
            log.add(2)
            assert await take(second, other, 1) == ([2], False)

    in_asyncio(test)


def test_what_was_trimmed_away_unread_is_missed(log: Log) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(1)
            assert await take(group, link, 1) == ([1], False)
        async with log.member() as (group, link):
            log.add(*range(2, 50), maxlen=10)
            await group.enter(link)
            assert await take(group, link, 10) == ([*range(40, 50)], True)
            log.add(50)
            assert await take(group, link, 1) == ([50], False)

    in_asyncio(test)


def test_what_was_trimmed_after_it_was_read_is_not(log: Log) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(*range(40))
            assert await take(group, link, 40) == ([*range(40)], False)
        async with log.member() as (group, link):
            log.xtrim(log.key, maxlen=0, approximate=False)
            log.add(40, 41, maxlen=3)
            await group.enter(link)
            assert await take(group, link, 2) == ([40, 41], False)

    in_asyncio(test)


def test_an_entry_that_was_deleted_while_it_was_pending_is_missed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_group, "IDLE_SECONDS", 0)

    async def test() -> None:
        for name in ("a", "b"):
            async with log.member("a") as (group, link):
                await group.enter(link)
                log.add(1)
                await group.take(link)
            log.xtrim(log.key, maxlen=0, approximate=False)
            async with log.member(name) as (group, link):
                await group.enter(link)
                log.add(2)
                found = await group.take(link)
                assert found.missing
                if found.entries:
                    await group.finish(link, [number for number, _ in found.entries])
                if not of(found) or of(found) == [None]:
                    assert (await take(group, link, 1))[0] == [2]

    in_asyncio(test)


@pytest.mark.parametrize("what", ["log", "group"])
def test_where_the_log_or_the_group_is_deleted_it_is_said_and_nothing_newer_is_skipped(
    log: Log, what: str
) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(1, 2)
            assert await take(group, link, 2) == ([1, 2], False)
            waiting = asyncio.ensure_future(group.take(link))
            await asyncio.sleep(0)
            if what == "log":
                with log.pipeline() as together:  # before the member can do anything
                    together.delete(log.key)
                    together.xadd(log.key, {"payload": "3"})
                    together.execute()
            else:
                log.xgroup_destroy(log.key, "g")
                log.add(3)
            assert (await waiting).missing
            log.add(4)
            assert await take(group, link, 2) == ([3, 4], False)

    in_asyncio(test)


def test_a_log_that_was_made_anew_with_lower_ids_is_read_from_its_beginning(log: Log) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.add(1)
            assert await take(group, link, 1) == ([1], False)
            log.delete(log.key)
            log.xadd(log.key, {"payload": "2"}, id="1-1")
            assert await take(group, link, 1) == ([2], True)

    in_asyncio(test)


def test_an_entry_without_a_payload_is_one(log: Log) -> None:
    async def test() -> None:
        async with log.member() as (group, link):
            await group.enter(link)
            log.xadd(log.key, {"message": "x"})
            assert await take(group, link, 1) == ([None], False)

    in_asyncio(test)
