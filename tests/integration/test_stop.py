"""SIGINT and SIGTERM: soon, or spread over SSE_DRAIN_SECONDS; with exit code 0, streams ended as HTTP says.

The bounds are several times what an idle machine needs (0.2 s), since machines are noisy.
"""

from __future__ import annotations

import contextlib
import os
import signal

import h11
import pytest
import trio

from tests.support.client import Stream, connect, eventually, streams
from tests.support.process import Service, Services, Stopped
from tests.support.variants import COMMANDS, VARIANTS, Variant

pytestmark = pytest.mark.integration

CLIENTS = [str(n % 10) for n in range(100)]


async def stop(service: Service, number: signal.Signals) -> Stopped:
    return await trio.to_thread.run_sync(service.stop, number)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_sigint(start: Services, variant: Variant) -> None:
    service = start(variant)
    async with streams(service.port, CLIENTS) as opened:
        service.publish("*", message="the last")
        stopped = await stop(service, signal.SIGINT)
        for stream in opened:
            (last,) = await stream.to_the_end()
            assert last.json["message"] == "the last"
    assert stopped.code == 0, service.log
    assert stopped.seconds < 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_sigterm_with_a_client_that_does_not_read(start: Services, variant: Variant) -> None:
    service = start(variant, SSE_MAX_MESSAGE_BYTES="1000000")
    async with (
        streams(service.port, CLIENTS) as opened,
        await connect(service.port, receive_buffer=2048) as deaf,
    ):
        await deaf.send_all(b"GET /sse?user_id=deaf HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: service.connections == 101, "the deaf one is connected")
        for _ in range(40):
            service.publish("deaf", message="x" * 500_000)
        await eventually(lambda: service.get("/readyz").json["totals"]["dropped"], "its socket is full")
        stopped = await stop(service, signal.SIGTERM)
        for stream in opened:
            await stream.to_the_end()
    assert stopped.code == 0, service.log
    assert stopped.seconds < 5


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_sigterm_while_messages_pour_in(start: Services, variant: Variant) -> None:
    service = start(variant)

    async def pour() -> None:
        while service.running:
            await trio.to_thread.run_sync(service.publish_raw, [b'{"user_id":"*","message":"pour"}'] * 200)

    async def to_the_end(stream: Stream) -> None:
        with contextlib.suppress(h11.RemoteProtocolError):  # whoever cannot keep up is cut off
            await stream.to_the_end()

    async with streams(service.port, CLIENTS[:20]) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        for stream in opened:
            await stream.notification()
            nursery.start_soon(to_the_end, stream)
        stopped = await stop(service, signal.SIGTERM)
        assert stopped.code == 0, service.log
        assert stopped.seconds < 5


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_sigterm_drains(start: Services, variant: Variant) -> None:
    service = start(variant, SSE_DRAIN_SECONDS="2")
    retries, ends = [], []

    async def to_the_end(stream: Stream) -> None:
        last = (await stream.to_the_end())[-1]
        assert last.name == "draining"
        retries.append(stream.parser.retry)
        ends.append(trio.current_time())

    async with streams(service.port, CLIENTS[:20]) as opened, trio.open_nursery() as nursery:
        for stream in opened:
            nursery.start_soon(to_the_end, stream)
        service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: service.get("/readyz").status == 503, "not ready at once")
        assert len(ends) < 20
        async with await connect(service.port) as transport:
            late = Stream(transport)
            await late.request("/sse", [], "1.1")
            assert late.status == 200
            assert [event.name for event in await late.to_the_end()] == ["draining"]
            assert late.parser.retry is not None
    assert len(set(retries)) > 10, "clients do not come back as one"
    assert all(0 < retry <= 4000 for retry in retries if retry is not None)
    assert max(ends) - min(ends) > 1, "nor are they sent away as one"
    stopped = await trio.to_thread.run_sync(service.wait)
    assert stopped.code == 0, service.log


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_terminal_ends_at_once(start: Services, workers: str) -> None:
    service = start(SSE_DRAIN_SECONDS="60", SSE_WORKERS=workers, SSE_LOG_LEVEL="debug")
    async with streams(service.port, CLIENTS[:10]) as opened:
        os.killpg(service.process.pid, signal.SIGINT)
        for stream in opened:
            await stream.to_the_end()
    stopped = await trio.to_thread.run_sync(service.wait)
    assert stopped.code == 0, service.log


async def test_a_second_signal_ends_the_drain(start: Services) -> None:
    service = start(SSE_DRAIN_SECONDS="60")
    async with streams(service.port, CLIENTS[:10]) as opened:
        service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: service.get("/readyz").status == 503, "it drains")
        service.process.send_signal(signal.SIGTERM)
        for stream in opened:
            await stream.to_the_end()
    stopped = await trio.to_thread.run_sync(service.wait)
    assert stopped.code == 0, service.log
