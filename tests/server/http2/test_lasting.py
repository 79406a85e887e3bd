"""When an HTTP/2 connection ends, and who waits for it. Over sockets: tests/integration/test_http2.py."""

from __future__ import annotations

import pytest
import trio
from hypercorn.events import Closed
from hypercorn.protocol.events import Body, EndBody
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER
from hypercorn.trio.worker_context import EventWrapper
from trio.testing import wait_all_tasks_blocked

from tests.support.inside import PATIENCE_SECONDS, http2_protocol
from trio_sse.server.http2.bounds import BoundedStreamBuffer
from trio_sse.server.http2.protocol import ContainedProtocol


@pytest.mark.parametrize(
    "said", [EndBody(stream_id=1), Body(stream_id=1, data=bytes(BUFFER_HIGH_WATER))], ids=["end", "body"]
)
async def test_when_the_connection_ends_nobody_waits_for_it(said: EndBody | Body) -> None:
    protocol = http2_protocol(ContainedProtocol, BoundedStreamBuffer)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(protocol.stream_send, said)
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1, "as long as it lasts, it is waited for"
            await protocol.handle(Closed())


async def test_what_is_sent_after_the_end_is_dropped() -> None:
    protocol = http2_protocol(ContainedProtocol, BoundedStreamBuffer)
    await protocol.handle(Closed())
    protocol.stream_buffers[1] = buffer = BoundedStreamBuffer(EventWrapper)  # a stream that came too late
    with trio.fail_after(PATIENCE_SECONDS):
        await protocol.stream_send(Body(stream_id=1, data=b"abc"))
        await protocol.stream_send(EndBody(stream_id=1))
    assert not buffer.buffer
