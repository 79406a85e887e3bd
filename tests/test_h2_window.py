"""What is sent to an HTTP/2 client waits for its window. Over sockets: tests/integration/test_tls.py."""

from __future__ import annotations

import hypercorn.protocol.h2
import trio
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, StreamBuffer
from hypercorn.trio.worker_context import EventWrapper
from trio.testing import wait_all_tasks_blocked

from trio_sse import h2_window
from trio_sse.h2_window import BoundedStreamBuffer


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


def test_it_stands_in_hypercorn_s_place_for_a_while() -> None:
    with h2_window.installed():
        assert hypercorn.protocol.h2.StreamBuffer is BoundedStreamBuffer
    assert hypercorn.protocol.h2.StreamBuffer is StreamBuffer
