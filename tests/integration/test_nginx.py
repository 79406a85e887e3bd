"""nginx in front, with the few lines that docs/operating.md gives."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
import trio

from tests.support import proxies
from tests.support.client import Stream, connect, eventually, streaming
from tests.support.ports import free_port
from tests.support.process import Services
from tests.support.variants import VARIANTS, Variant

pytestmark = pytest.mark.integration

LOCATION = proxies.block("nginx")


def nginx(directory: Path, back: int, location: str = LOCATION) -> contextlib.AbstractContextManager[int]:
    """Buffering is on, as by default: X-Accel-Buffering switches it off for the stream."""
    front = free_port()
    location = location.replace("127.0.0.1:8085", f"127.0.0.1:{back}")
    return proxies.nginx(directory, f"listen 127.0.0.1:{front};\n{location}", front)


async def test_a_stream_passes_unbuffered(start: Services, tmp_path: Path) -> None:
    service = start()
    with nginx(tmp_path, service.port) as front:
        async with streaming(front, "7") as stream:  # `connected` came through by itself
            for n in range(3):
                service.publish(7, n=n)
                with trio.fail_after(5):
                    assert (await stream.notification())["n"] == n
        await eventually(lambda: service.connections == 0, "nginx passes the client's leaving on")


async def test_streams_are_counted_by_the_client_s_address(start: Services, tmp_path: Path) -> None:
    service = start(SSE_TRUSTED_PROXIES="127.0.0.1", SSE_MAX_CONNECTIONS_PER_ADDRESS="1")
    expected = [("127.0.0.2", "connected"), ("127.0.0.3", "connected"), ("127.0.0.2", "overloaded")]
    headers = [("Accept", "text/event-stream"), ("X-Forwarded-For", "192.0.2.1")]
    with nginx(tmp_path, service.port) as front:
        async with contextlib.AsyncExitStack() as stack:
            for source, name in expected:
                transport = await stack.enter_async_context(await connect(front, source=source))
                stream = Stream(transport)
                await stream.request("/sse", headers, "1.1")
                assert (await stream.event()).name == name


@pytest.mark.parametrize("kept", ["/", ""], ids=["taken-off", "left-in-front"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_a_service_under_a_path(start: Services, tmp_path: Path, kept: str, variant: Variant) -> None:
    """`proxy_pass` with a path takes off what `location` names, without one it does not."""
    service = start(variant, SSE_ROOT_PATH="/notify")
    location = LOCATION.replace("/sse", "/notify/").replace("127.0.0.1:8085", f"127.0.0.1:8085{kept}")
    with nginx(tmp_path, service.port, location) as front:
        for path in ("/notify/healthz", "/notify/readyz", "/notify/"):
            assert (await trio.to_thread.run_sync(get, front, path)).startswith(b"HTTP/1.1 200")
        async with await connect(front) as transport:
            stream = Stream(transport)
            await stream.request("/notify/sse?user_id=7", [], "1.1")
            assert (await stream.event()).name == "connected"
            service.publish(7, n=1)
            assert (await stream.notification())["n"] == 1


def get(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return client.makefile("rb").read()
