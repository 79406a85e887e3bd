"""A client that leaves, in whichever way, is removed at once with all it held."""

from __future__ import annotations

import pytest
import trio

from tests.support.client import Stream, connect, eventually, linger_none, streams
from tests.support.hostile import GET_HEALTH, GET_SSE
from tests.support.process import Service, Services
from tests.support.variants import COMMANDS

pytestmark = pytest.mark.integration


async def fin(stream: Stream) -> None:
    await stream.transport.aclose()


async def rst(stream: Stream) -> None:
    stream.reset()


async def half_close(stream: Stream) -> None:
    await stream.transport.send_eof()


@pytest.mark.parametrize("leave", [fin, rst, half_close])
async def test_streams(served: Service, leave: object) -> None:
    await eventually(lambda: served.connections == 0, "all others have left")
    before = served.descriptors
    async with streams(served.port, ["x"] * 20) as opened:
        assert served.connections == 20
        for stream in opened:
            await leave(stream)  # type: ignore[operator]
        await eventually(lambda: served.connections == 0, "all have left")
        await eventually(lambda: served.descriptors <= before, "their sockets are closed")
    served.publish("x", message="to nobody")


@pytest.mark.parametrize("served", COMMANDS, indirect=True, ids=str)
@pytest.mark.parametrize(
    "head", [b"GET /sse HTTP/1.1\r\nHos", b"G", b""], ids=["mid-header", "mid-method", "at-once"]
)
async def test_before_the_request_is_complete(served: Service, head: bytes) -> None:
    await eventually(lambda: served.connections == 0, "all others have left")
    before = served.descriptors
    for number in range(20):
        async with await connect(served.port) as transport:
            await transport.send_all(head)
            if number % 2:
                linger_none(transport.socket)
    await eventually(lambda: served.descriptors <= before, "their sockets are closed")
    assert served.connections == 0


async def test_while_messages_are_on_their_way(served: Service) -> None:
    async with streams(served.port, ["busy"] * 20) as opened:
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                for _ in range(50):
                    served.publish("busy", message="x" * 20_000)
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(publish)
            for stream in opened:
                await stream.notification()
                stream.reset()
        await eventually(lambda: served.connections == 0, "all have left")


@pytest.mark.slow
async def test_with_more_requests_behind_the_stream(start: Services) -> None:
    """A stream that is not the first request of its connection, and not the last one sent either.

    It is Hypercorn's own, which stops reading while requests wait: the leaving shows at the next write.
    """
    for service in start.each(COMMANDS, SSE_HEARTBEAT_SECONDS="1"):
        async with await connect(service.port) as transport:
            await transport.send_all(GET_HEALTH + GET_SSE + GET_HEALTH)
            answered = b""
            while b"event: connected" not in answered:
                answered += await transport.receive_some(65536)
        await eventually(lambda s=service: s.connections == 0, "it has left", seconds=5)  # type: ignore[misc]
        stopped = service.stop()
        assert stopped.code == 0
        assert stopped.seconds < 3
