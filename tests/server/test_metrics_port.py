"""`GET /metrics` at a port of its own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.inside import exchange, settings
from tests.support.ports import free_port
from trio_sse.server.metrics_port import REQUEST_SECONDS, metrics_listener, serve_metrics
from trio_sse.service import Service

TOKEN = "a-token-of-16-or-more"


@asynccontextmanager
async def serving(**values: Any) -> AsyncIterator[int]:
    service = Service(settings(host="127.0.0.1", metrics_port=free_port(), **values))
    listener = metrics_listener(service.settings)
    assert listener is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_metrics, service, listener)
        yield service.settings.metrics_port
        nursery.cancel_scope.cancel()


def request(line: str = "GET /metrics HTTP/1.1", *fields: str) -> bytes:
    return "\r\n".join([line, "Host: a", *fields, "", ""]).encode()


async def ask(port: int, asked: bytes) -> tuple[int, dict[str, str], bytes]:
    answer = await exchange(port, asked)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), fields, body


async def test_it_has_what_the_service_counts_and_closes() -> None:
    async with serving() as port:
        status, fields, body = await ask(port, request())
    assert (status, fields["connection"]) == (200, "close")
    assert fields["content-type"].startswith("text/plain; version=")
    assert int(fields["content-length"]) == len(body)
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "trio_sse_published_to_streams" in names


async def test_head_has_no_body() -> None:
    async with serving() as port:
        assert (await ask(port, request("HEAD /metrics HTTP/1.1")))[2] == b""


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("GET / HTTP/1.1"), 404),
        (request("GET /metrics?x=1 HTTP/1.1"), 200),
        (request("GET /metrics HTTP/1.0"), 200),
        (request("POST /metrics HTTP/1.1", "Content-Length: 0"), 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    ],
)
async def test_anything_else_is_refused(asked: bytes, status: int) -> None:
    async with serving() as port:
        assert (await ask(port, asked))[0] == status


async def test_where_there_is_a_token_it_asks_for_it_too() -> None:
    async with serving(metrics_token=TOKEN) as port:
        status, fields, body = await ask(port, request())
        assert (status, fields["www-authenticate"].startswith("bearer"), body) == (401, True, b"")
        assert (await ask(port, request("GET /metrics HTTP/1.1", f"Authorization: Bearer {TOKEN}")))[0] == 200


async def test_one_that_leaves_or_says_nothing_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_sse.server.metrics_port.REQUEST_SECONDS", 0.05)
    assert REQUEST_SECONDS == 10
    async with serving() as port:
        (await trio.open_tcp_stream("127.0.0.1", port)).socket.close()
        with trio.fail_after(5):
            assert await exchange(port, b"GET /metr") == b""
        assert (await ask(port, request()))[0] == 200


def test_without_the_setting_there_is_none() -> None:
    assert metrics_listener(settings()) is None


@pytest.mark.parametrize(("host", "at"), [("unix:/run/x", "0.0.0.0"), ("fd://3", "0.0.0.0"), ("::1", "::1")])
def test_it_listens_at_the_address_of_the_streams_or_at_all(host: str, at: str) -> None:
    listener = metrics_listener(settings(host=host, metrics_port=free_port()))
    assert listener is not None
    with listener:
        assert listener.getsockname()[0] == at


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        metrics_listener(settings(host="127.0.0.1", metrics_port=other.getsockname()[1]))
