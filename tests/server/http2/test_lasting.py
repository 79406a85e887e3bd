"""When an HTTP/2 connection ends, and who waits for it. Over sockets: tests/integration/test_http2.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, EndBody, StreamClosed
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


GOAWAY = 7


class Sent:
    """What a connection sends, where each write takes as long as the test says."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.closed = False
        self.during: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def __call__(self, event: object) -> None:
        if isinstance(event, RawData):
            await self.during()
            assert not self.closed, "the connection was closed during a write"
            data = event.data.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while data:
                self.frames.append(data[3])
                data = data[9 + int.from_bytes(data[:3], "big") :]
        self.closed |= isinstance(event, Closed)


async def stopping() -> tuple[Any, Sent]:
    """A connection without streams whose server stops."""
    protocol: Any = http2_protocol(ContainedProtocol, BoundedStreamBuffer)
    protocol.stream_buffers.clear()
    protocol.priority.remove_stream(1)
    protocol.send = sent = Sent()
    protocol.connection.initiate_connection()
    await protocol.context.terminated.set()
    return protocol, sent


async def test_a_goaway_that_is_said_during_a_write_is_sent_before_the_end() -> None:
    protocol, sent = await stopping()

    async def the_last_stream_ends() -> None:
        sent.during = trio.lowlevel.checkpoint
        await protocol.stream_send(StreamClosed(stream_id=1))

    sent.during = the_last_stream_ends
    with trio.fail_after(PATIENCE_SECONDS):
        await protocol.send_task()
    assert sent.closed
    assert sent.frames[-1] == GOAWAY


async def test_the_end_waits_for_the_write_of_another_task() -> None:
    protocol, sent = await stopping()
    taken = trio.Event()
    sent.during = taken.wait
    await protocol.stream_send(StreamClosed(stream_id=1))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(protocol._flush)
            await wait_all_tasks_blocked()
            nursery.start_soon(protocol.send_task)
            await wait_all_tasks_blocked()
            assert not sent.closed
            taken.set()
    assert sent.closed
    assert sent.frames[-1] == GOAWAY


async def test_a_connection_that_leaves_waits_for_its_streams_without_work() -> None:
    protocol, sent = await stopping()
    protocol.stream_buffers[1] = BoundedStreamBuffer(EventWrapper)
    protocol._go_away()
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(protocol.send_task)
            await wait_all_tasks_blocked()
            assert sent.frames[-1] == GOAWAY
            assert not sent.closed
            nursery.cancel_scope.cancel()
