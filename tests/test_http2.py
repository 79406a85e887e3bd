"""HTTP/2 where Hypercorn needs help. Over sockets: tests/integration/test_tls.py."""

from __future__ import annotations

import hypercorn.protocol
import hypercorn.protocol.h2
import pytest
import trio
from hypercorn.events import Closed
from hypercorn.protocol.events import Body, EndBody
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol, StreamBuffer
from hypercorn.trio.worker_context import EventWrapper
from trio.testing import wait_all_tasks_blocked

from tests.support import PATIENCE_SECONDS, http2_protocol
from trio_sse import http2
from trio_sse.http2 import BoundedStreamBuffer, EndingProtocol


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


@pytest.mark.parametrize(
    "said", [EndBody(stream_id=1), Body(stream_id=1, data=bytes(BUFFER_HIGH_WATER))], ids=["end", "body"]
)
async def test_when_the_connection_ends_nobody_waits_for_it(said: EndBody | Body) -> None:
    protocol = http2_protocol(EndingProtocol, BoundedStreamBuffer)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(protocol.stream_send, said)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1, "as long as it lasts, it is waited for"
            await protocol.handle(Closed())


async def test_what_is_sent_after_the_end_is_dropped() -> None:
    protocol = http2_protocol(EndingProtocol, BoundedStreamBuffer)
    await protocol.handle(Closed())
    protocol.stream_buffers[1] = buffer = BoundedStreamBuffer(EventWrapper)  # a stream that came too late
    with trio.fail_after(PATIENCE_SECONDS):
        await protocol.stream_send(Body(stream_id=1, data=b"abc"))
        await protocol.stream_send(EndBody(stream_id=1))
    assert not buffer.buffer


def test_it_stands_in_hypercorn_s_place_for_a_while() -> None:
    with http2.installed():
        assert hypercorn.protocol.h2.StreamBuffer is BoundedStreamBuffer
        assert vars(hypercorn.protocol)["H2Protocol"] is EndingProtocol
    assert hypercorn.protocol.h2.StreamBuffer is StreamBuffer
    assert vars(hypercorn.protocol)["H2Protocol"] is H2Protocol
