"""HTTP/1 connections that want to be something else. Over sockets: tests/integration/test_http2.py."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypercorn.config import Config
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.worker_context import WorkerContext

from trio_sse.server.upgrades import PlainProtocol


def protocol(*, ssl: bool = False) -> PlainProtocol:
    async def send(event: object) -> None:
        raise AssertionError(event)

    nobody: Any = None
    context: Any = WorkerContext(None)
    return PlainProtocol(nobody, Config(), context, nobody, nobody, ssl, None, None, send)


def request(method: bytes, target: bytes, version: bytes, *headers: tuple[bytes, bytes]) -> h11.Request:
    fields = [(b"host", b"x"), *headers]
    return h11.Request(method=method, target=target, http_version=version, headers=fields)


PREFACE = request(b"PRI", b"*", b"2.0")


@pytest.mark.parametrize("value", [b"h2c", b"H2C", b"anything, h2c"])
async def test_an_upgrade_is_ignored(value: bytes) -> None:
    await protocol()._check_protocol(request(b"GET", b"/", b"1.1", (b"upgrade", value)))


async def test_the_preface_counts_in_the_beginning_and_without_tls() -> None:
    with pytest.raises(H2ProtocolAssumedError):
        await protocol()._check_protocol(PREFACE)
    await protocol(ssl=True)._check_protocol(PREFACE)
    later = protocol()
    later.keep_alive_requests = 1
    await later._check_protocol(PREFACE)
