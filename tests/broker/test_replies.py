"""What became of a message is in the list that it names, and in no other key."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.support.inside import settings, until
from tests.support.log import DATABASE, BackEnd
from tests.support.valkeys import breakable
from trio_sse.broker import replies as module
from trio_sse.broker.replies import EXPIRE_SECONDS, MOST_ELEMENTS, Replies
from trio_sse.counters import Counters
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.receipts import Receipt


def new(port: int, **login: Any) -> tuple[Replies, Counters]:
    chosen = settings(redis_port=port, redis_main_db=DATABASE, **login)
    history = History("p", messages=10, seconds=1, max_bytes=1000, clock=trio.current_time)
    hub = Hub(Counters(), history, heartbeat_seconds=30)
    replies = Replies(chosen, "replies:", "node", None, hub)
    assert hub.receipts.answer is not None
    return replies, hub.counters


@asynccontextmanager
async def running(replies: Replies) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replies.run)
        yield
        nursery.cancel_scope.cancel()


def receipt(name: str, took: int = 0, buffered: int = 0, dropped: int = 0) -> Receipt:
    return Receipt(f"p.{took}", took, buffered, dropped, reply_to=name)


def read(back_end: BackEnd, name: str) -> list[Any]:
    found: Any = back_end.lrange(name, 0, -1)
    return [json.loads(one) for one in found]


async def test_an_answer_says_how_many_streams_took_it(port: int, back_end: BackEnd) -> None:
    replies, counters = new(port)
    async with running(replies):
        for number in range(300):
            replies.answer(receipt("replies:one", number, buffered=1, dropped=2))
        replies.answer(receipt("replies:two", 5))
        await until(lambda: counters.replies == 301)
    found = read(back_end, "replies:one")
    assert found[7] == {"node": "node", "id": "p.7", "took": 7, "buffered": 1, "dropped": 2, "streams": 10}
    assert [one["took"] for one in found] == list(range(300))
    assert len(read(back_end, "replies:two")) == 1
    assert 0 < int(str(back_end.ttl("replies:one"))) <= EXPIRE_SECONDS


async def test_other_keys_are_not_written(port: int, back_end: BackEnd) -> None:
    replies, counters = new(port)
    back_end.set("replies:text", "mine")
    async with running(replies):
        for name in ("other", "events", "replies", "replies:a\nb", "replies:" + "x" * 200, "replies:text"):
            replies.answer(receipt(name))
        replies.answer(receipt("replies:last"))
        await until(lambda: counters.replies == 1)
    assert sorted(back_end.keys()) == [b"replies:last", b"replies:text"]
    assert back_end.get("replies:text") == b"mine"
    assert counters.replies_dropped == 1, "the one whose key is no list"


async def test_a_list_that_nobody_reads_ends_at_its_bound(port: int, back_end: BackEnd) -> None:
    replies, counters = new(port)
    back_end.rpush("replies:full", *["x"] * (MOST_ELEMENTS - 2))
    async with running(replies):
        for _ in range(5):
            replies.answer(receipt("replies:full"))
        await until(lambda: counters.replies + counters.replies_dropped == 5)
    assert back_end.llen("replies:full") == MOST_ELEMENTS
    assert (counters.replies, counters.replies_dropped) == (2, 3)


async def test_while_redis_is_away_so_many_wait_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 20)
    with breakable(started=False) as valkey:
        replies, counters = new(valkey.port)
        async with running(replies):
            for number in range(30):
                replies.answer(receipt("replies:one", number))
            await trio.sleep(0.3)
            assert (counters.replies, counters.replies_dropped) == (0, 10)
            valkey.start()
            await until(lambda: counters.replies == 20)


async def test_what_waits_at_the_end_is_written(port: int, back_end: BackEnd) -> None:
    replies, counters = new(port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replies.run)
        replies.answer(receipt("replies:one"))
        nursery.cancel_scope.cancel()
    assert len(read(back_end, "replies:one")) == counters.replies == 1


async def test_a_list_that_the_acl_forbids_does_not_hold_up_the_others(port: int, back_end: BackEnd) -> None:
    back_end.acl_setuser(
        "narrow", enabled=True, passwords=["+p"], keys=["replies:ok*"], commands=["+@all"], channels=["*"]
    )
    replies, counters = new(port, redis_username="narrow", redis_password="p")
    async with running(replies):
        for name in ("replies:no", "replies:ok", "replies:no"):
            replies.answer(receipt(name))
        await until(lambda: counters.replies + counters.replies_dropped == 3)
    assert counters.replies == back_end.exists("replies:ok") == 1
