"""SIGHUP and new certificates under a running service: no stream ends, new connections get the new one."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.client import eventually
from tests.support.process import Service, Services
from tests.support.valkeys import certificate
from tests.support.variants import COMMANDS, TRIO_SSE, Variant

pytestmark = pytest.mark.integration


@asynccontextmanager
async def tls_stream(service: Service) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A stream of user 1, of which `connected` was read."""
    async with await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", service.port, ssl_context=service.tls, https_compatible=True
    ) as stream:
        await stream.send_all(b"GET /sse?user_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(stream, b"event: connected")
        yield stream


async def read_until(stream: trio.SSLStream[trio.SocketStream], text: bytes) -> None:
    received = b""
    while text not in received:
        data = await stream.receive_some()
        assert data, received
        received += data


def shown(service: Service) -> str:
    return ssl.get_server_certificate(("127.0.0.1", service.port))


async def check_renewal(service: Service, directory: Path, hang_up: list[int]) -> None:
    before = await trio.to_thread.run_sync(shown, service)
    async with tls_stream(service) as stream:
        renewed, _ = await trio.to_thread.run_sync(certificate, directory)
        for pid in hang_up:
            os.kill(pid, signal.SIGHUP)
        after = renewed.read_text()
        # Each of several workers may answer: all of them have it.
        await eventually(lambda: all(shown(service) == after for _ in range(10)), "the new certificate")
        assert before != after
        (directory / "cert.pem").write_text("broken")
        for pid in hang_up:
            os.kill(pid, signal.SIGHUP)
        await eventually(lambda: "does not load" in service.log, "a line in the log")
        assert shown(service) == after
        service.publish(1, message="still here")
        await read_until(stream, b"still here")
    assert "Traceback" not in service.log


@pytest.mark.parametrize("workers_count", ["1", "2"])
@pytest.mark.parametrize("signalled", [True, False])
async def test_trio_sse_takes_a_new_certificate_up(
    start: Services, tmp_path: Path, workers_count: str, signalled: bool
) -> None:
    cert, key = certificate(tmp_path)
    service = start(TRIO_SSE, SSE_TLS_CERT=str(cert), SSE_TLS_KEY=str(key), SSE_WORKERS=workers_count)
    started = int(workers_count)
    await eventually(
        lambda: service.log.count("Running on") == started, "all of them have read the first one"
    )
    before = service.workers
    await check_renewal(service, tmp_path, [service.process.pid] if signalled else [])
    assert service.workers == before
    assert len(before) == started
    assert "options of its own" not in service.log


@pytest.mark.parametrize("variant", COMMANDS[1:], ids=str)
async def test_a_worker_of_hypercorn_does(start: Services, tmp_path: Path, variant: Variant) -> None:
    cert, key = certificate(tmp_path)
    service = start(variant, "--certfile", str(cert), "--keyfile", str(key))
    before = service.workers
    await check_renewal(service, tmp_path, before)
    assert service.workers == before


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_without_tls_a_hangup_ends_nothing(start: Services, variant: Variant) -> None:
    service = start(variant)
    before = service.workers
    for pid in before:
        os.kill(pid, signal.SIGHUP)
    await eventually(lambda: "SIGHUP" in service.log, "a line in the log")
    assert service.answers("/readyz")
    assert service.workers == before


@pytest.mark.parametrize("workers_count", ["1", "2"])
async def test_hangups_of_the_whole_group_at_any_time_end_nothing(
    start: Services, workers_count: str
) -> None:
    service = start(TRIO_SSE, SSE_WORKERS=workers_count)
    for _ in range(20):
        os.killpg(service.process.pid, signal.SIGHUP)
        await trio.sleep(0.01)
    assert service.answers("/readyz")
    stopped = await trio.to_thread.run_sync(service.stop)
    assert stopped.code == 0
