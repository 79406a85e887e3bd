"""Who came and who has gone is published, and what could not be is published later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import settings
from trio_sse.broker.announcer import SETTLE_SECONDS, Announcer, check
from trio_sse.broker.publisher import Publisher, UnavailableError
from trio_sse.counters import Counters
from trio_sse.settings import SettingsError


class Published:
    """In the place of a publisher: keeps what it gets, or refuses it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.away = False
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def publish(self, payloads: Sequence[bytes], key: str | None) -> None:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        self.meanwhile()
        if self.away:
            raise UnavailableError("no Redis", unsure=False)
        self.batches.append([json.loads(one) for one in payloads])

    @property
    def told(self) -> list[tuple[str, bool]]:
        return [tuple(one["message"].values()) for batch in self.batches for one in batch]


def new(published: Published, most_bytes: int = 1000) -> tuple[Announcer, Counters]:
    counters = Counters()
    return Announcer(cast(Publisher, published), "who", counters, most_bytes), counters


async def test_each_is_a_message_to_the_topic(autojump_clock: MockClock) -> None:
    published = Published()
    announcer, counters = new(published)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        announcer.tell(["ann", "bob"], True)
        announcer.tell(["eve"], False)
        await wait_all_tasks_blocked()
        assert published.batches[0][0] == {
            "topic": "who",
            "event": "presence",
            "message": {"user_id": "ann", "online": True},
        }
        assert published.told == [("ann", True), ("bob", True), ("eve", False)]
        assert (counters.presence_online, counters.presence_offline) == (2, 1)
        announcer.tell((str(n) for n in range(1200)), True)
        await wait_all_tasks_blocked()
        assert [len(batch) for batch in published.batches] == [3, 500, 500, 200]
        nursery.cancel_scope.cancel()


async def test_while_redis_is_away_the_newest_of_each_user_waits(autojump_clock: MockClock) -> None:
    published = Published()
    published.away = True
    announcer, _ = new(published)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        announcer.tell(["ann", "bob"], True)
        announcer.tell(["ann"], False)
        await trio.sleep(60)
        assert 10 < published.asked < 100
        published.away = False
        await trio.sleep(10)
        assert published.told == [("bob", True), ("ann", False)]
        nursery.cancel_scope.cancel()


async def test_what_changes_while_it_is_published_is_published_again(autojump_clock: MockClock) -> None:
    published = Published()
    announcer, _ = new(published)

    def leaves() -> None:
        published.meanwhile = lambda: None
        announcer.tell(["ann"], False)

    published.meanwhile = leaves
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        announcer.tell(["ann"], True)
        await wait_all_tasks_blocked()
        assert published.told == [("ann", True), ("ann", False)]
        nursery.cancel_scope.cancel()


async def test_after_redis_was_away_other_nodes_have_time_to_subscribe(autojump_clock: MockClock) -> None:
    published = Published()
    announcer, _ = new(published)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        announcer.hold()
        announcer.tell(["ann"], True)
        await trio.sleep(SETTLE_SECONDS - 0.1)
        assert published.told == []
        await trio.sleep(0.2)
        assert published.told == [("ann", True)]
        nursery.cancel_scope.cancel()


async def test_what_all_nodes_would_refuse_is_not_published(autojump_clock: MockClock) -> None:
    published = Published()
    announcer, counters = new(published, most_bytes=100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announcer.run)
        announcer.tell(["a" * 100, "ann"], True)
        await wait_all_tasks_blocked()
        assert published.told == [("ann", True)]
        assert counters.presence_online == 1
        nursery.cancel_scope.cancel()


def test_a_topic_that_is_none_is_a_mistake() -> None:
    check(settings())
    check(settings(presence=True, presence_topic="who/is/here"))
    with pytest.raises(SettingsError, match="SSE_PRESENCE_TOPIC"):
        check(settings(presence=True, presence_topic="a*"))
