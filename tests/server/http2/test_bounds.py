"""How much one HTTP/2 connection may hold and waste."""

from __future__ import annotations

import trio
from hypercorn.config import Config
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER
from hypercorn.trio.worker_context import EventWrapper
from trio.testing import wait_all_tasks_blocked

from tests.support.inside import PATIENCE_SECONDS
from trio_sse.server.http2.bounds import (
    WASTE,
    WASTE_PER_SECOND,
    BoundedStreamBuffer,
    Waste,
    without_queue_limit,
)


async def test_a_writer_waits_until_little_is_left() -> None:
    buffer = BoundedStreamBuffer(EventWrapper)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.push, bytes(BUFFER_HIGH_WATER))
        await wait_all_tasks_blocked()
        await buffer.pop(0)
        await buffer.pop(BUFFER_HIGH_WATER // 4)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await buffer.pop(BUFFER_HIGH_WATER // 2)
    assert len(buffer.buffer) == BUFFER_HIGH_WATER // 4


async def test_all_that_was_written_is_taken_in_order() -> None:
    buffer = BoundedStreamBuffer(EventWrapper)
    await buffer.push(b"abc")
    await buffer.push(b"def")
    assert [await buffer.pop(4), await buffer.pop(4), await buffer.pop(4)] == [b"abcd", b"ef", b""]
    await buffer.drain()


async def test_nobody_waits_for_what_is_closed() -> None:
    buffer = BoundedStreamBuffer(EventWrapper)
    assert not buffer.said_all
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buffer.push, bytes(BUFFER_HIGH_WATER))
            nursery.start_soon(buffer.ended.wait)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2
            await buffer.close()
    assert buffer.said_all


def test_waste_is_forgotten_with_time() -> None:
    now = 0.0
    waste = Waste(lambda: now)
    for _ in range(WASTE):
        waste.add()
    assert waste.add() == WASTE + 1
    now += 1
    assert waste.add() == WASTE + 2 - WASTE_PER_SECOND
    now += 3600
    assert waste.add() == 1


def test_the_queue_of_a_body_has_no_limit_of_its_own() -> None:
    config = Config()
    own = without_queue_limit(config)
    assert own is without_queue_limit(config), "one for all connections: a config opens log files"
    assert own.max_app_queue_size > 1_000_000
    assert config.max_app_queue_size == Config.max_app_queue_size
