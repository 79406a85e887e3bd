"""Clients whose network is gone for a while, or for good. Through a cable that is cut."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from tests.chaos.bench import LeftOutError
from tests.chaos.netns import Cable, namespace
from tests.support.client import Stream, eventually
from tests.support.http2 import Http2, Stream2
from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.valkeys import certificate
from tests.support.variants import COMMANDS, TRIO_SSE, VARIANTS, Variant

pytestmark = pytest.mark.integration

TIMEOUT = 2
"""SSE_WRITE_TIMEOUT_SECONDS."""

OUTAGE = 1.8

SPREAD = 0.15
"""Between two connects: the outage meets each in another phase of what the kernel does about silence."""

COUNT = 16


class Events(Protocol):
    async def event(self) -> Any: ...


@pytest.fixture
def cable() -> Iterator[Cable]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(namespace())
        except LeftOutError as error:
            if os.environ.get("CI"):
                pytest.fail(f"in CI there must be a network to cut: {error}")
            pytest.skip(str(error))
        yield made


def begin(
    start: Services, variant: Variant, cable: Cable, pair: tuple[Path, Path] | None = None, **more: str
) -> Service:
    port = free_port()
    arguments: list[str] = []
    values: dict[str, Any] = {
        "SSE_WRITE_TIMEOUT_SECONDS": str(TIMEOUT),
        "SSE_HEARTBEAT_SECONDS": "30",
        **more,
    }
    if variant.on_hypercorn:
        arguments += ["-b", f"{cable.host}:{port}"]
        if pair:
            arguments += ["--certfile", str(pair[0]), "--keyfile", str(pair[1])]
    else:
        values["SSE_HOST"] = "0.0.0.0"
        if pair:
            values.update(SSE_TLS_CERT=str(pair[0]), SSE_TLS_KEY=str(pair[1]))
    return start(variant, *arguments, port=port, ready=None, **values)


class Far:
    """The clients at the far end of the cable."""

    def __init__(self, cable: Cable, service: Service, nursery: trio.Nursery) -> None:
        self._cable = cable
        self._service = service
        self._nursery = nursery
        self._closing = contextlib.ExitStack()

    async def _dial(self) -> trio.SocketStream:
        stream = await self._cable.to(self._service.port)()
        self._closing.callback(stream.socket.close)
        return stream

    def close(self) -> None:
        self._nursery.cancel_scope.cancel()
        self._closing.close()

    async def plain(self, user: str) -> Events:
        return await _http1(await self._dial(), user)

    async def over_tls(self, user: str) -> Events:
        return await _http1(_tls(await self._dial(), "http/1.1"), user)

    async def over_http2(self, user: str) -> Events:
        client = Http2(_tls(await self._dial(), "h2"))
        await client.begin()
        self._nursery.start_soon(client.read)
        stream: Stream2 = await client.get(f"/sse?user_id={user}")
        assert (await stream.event()).name == "connected"
        return stream


async def _http1(transport: Any, user: str) -> Stream:
    stream = Stream(transport)
    await stream.request(f"/sse?user_id={user}", (), "1.1")
    assert (await stream.event()).name == "connected"
    return stream


def _tls(stream: trio.SocketStream, protocol: str) -> Any:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return trio.SSLStream(stream, context, https_compatible=True)


async def until_last(stream: Events) -> None:
    while (event := await stream.event()).name != "last":
        assert event.name in ("message", "heartbeat", "gap"), event


@contextlib.asynccontextmanager
async def busy(service: Service, user: str) -> AsyncIterator[None]:
    """Messages for `user` all the time."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish() -> None:
            while True:
                service.publish(user, padding="x" * 500)
                await trio.sleep(0.05)

        yield
        nursery.cancel_scope.cancel()


async def outlive(cable: Cable, service: Service, opening: Callable[..., Any]) -> None:
    """Idle clients and busy ones survive an outage. Cut off for good, they are found dead."""
    await trio.to_thread.run_sync(service.wait_until_answers)
    async with trio.open_nursery() as nursery:
        with contextlib.closing(Far(cable, service, nursery)) as far:
            opened = []
            async with busy(service, "busy"):
                for number in range(COUNT):
                    opened.append(await opening(far, "busy" if number % 4 == 0 else "idle"))
                    await trio.sleep(SPREAD)
                cable.cut()
                await trio.sleep(OUTAGE)
                cable.mend()
                # Long enough for the kernel to give up what it was about to.
                await trio.sleep(3 * TIMEOUT)
                assert service.connections == COUNT, "all of them are there"
            service.publish(["busy", "idle"], event="last")
            async with trio.open_nursery() as readers:
                for stream in opened:
                    readers.start_soon(until_last, stream)
            cable.cut()
            async with busy(service, "busy"):
                await eventually(lambda: service.connections == 0, "all are found dead", seconds=40)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS[:4], ids=str)
async def test_an_outage_is_survived_and_a_dead_client_found(
    start: Services, cable: Cable, variant: Variant
) -> None:
    await outlive(cable, begin(start, variant, cable), Far.plain)


async def test_with_heartbeats_more_often_than_the_timeout(start: Services, cable: Cable) -> None:
    await outlive(cable, begin(start, TRIO_SSE, cable, SSE_HEARTBEAT_SECONDS="0.5"), Far.plain)


@pytest.mark.slow
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
@pytest.mark.parametrize("opening", [Far.over_tls, Far.over_http2])
async def test_over_tls(
    start: Services, cable: Cable, tmp_path: Path, variant: Variant, opening: Callable[..., Any]
) -> None:
    await outlive(cable, begin(start, variant, cable, certificate(tmp_path)), opening)
