"""The answer to a request for a stream on a plain connection."""

from __future__ import annotations

import json
import socket
import struct
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from trio.testing import MockClock

from tests.support.inside import fleet_of, get, read, request_stream, settings, stream_pair, until
from tests.support.tokens import SECRET
from trio_sse.server.http1 import Head, read_head
from trio_sse.server.requests import admit, peer_of
from trio_sse.service import Service
from trio_sse.settings import UNIX


@pytest.fixture
def service() -> Service:
    return Service(settings())


async def head_of(near: trio.SocketStream, path: str) -> Head:
    head = await read_head(near, get(path), Config())
    assert isinstance(head, Head)
    return head


@pytest.mark.parametrize(
    ("query", "values", "status"),
    [("user_id=*", {}, 400), ("user_id=ann", {"auth": "jwt", "jwt_secret": SECRET}, 401)],
)
async def test_who_is_refused_gets_a_problem_document_on_the_same_socket(
    query: str, values: dict[str, Any], status: int
) -> None:
    service = Service(settings(**values))
    async with stream_pair() as (near, far):
        assert await admit(service, await head_of(near, f"/sse?{query}"), Config(), near) is None
        await near.send_eof()
        head, _, body = (await read(far)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["status"] == status
    assert (len(service.hub), service.counters.streams) == (0, 0)


async def test_one_who_does_not_read_its_refusal_is_given_up(
    service: Service, autojump_clock: MockClock
) -> None:
    async with stream_pair() as (near, _far):
        with trio.move_on_after(0):
            while True:
                await near.send_all(b"x" * 100_000)
        began = trio.current_time()
        assert await admit(service, await head_of(near, "/sse?user_id=*"), Config(), near) is None
        assert trio.current_time() - began <= service.settings.write_timeout_seconds


async def test_whoever_leaves_before_a_refusal_is_no_error(service: Service) -> None:
    async with stream_pair() as (near, far):
        head = await head_of(near, "/sse?user_id=*")
        # With SO_LINGER 0 closing resets the connection.
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.socket.close()
        assert await admit(service, head, Config(), near) is None


async def test_limits_by_address_do_no_harm_on_a_unix_socket() -> None:
    service = Service(settings(max_connections_per_address=5))
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        assert await request_stream(fleet, service, near)
        assert b"event: connected" in await read(far, b"}\n\n")
        assert service.admission.limits._addresses == {UNIX: 1}


async def test_limits_count_the_address_at_the_other_end() -> None:
    service = Service(settings(max_connections_per_address=1))
    async with fleet_of(service) as fleet, trio.open_nursery() as nursery:
        serve = partial(request_stream, fleet, service)
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as first:
            assert b"event: connected" in await read(first, b"}\n\n")
            async with await trio.open_tcp_stream("127.0.0.1", port) as second:
                assert (await read(second)).startswith(b"HTTP/1.1 429 ")
            assert service.admission.limits._addresses == {"127.0.0.1": 1}
        await until(lambda: not service.admission.limits._addresses)
        nursery.cancel_scope.cancel()


def test_a_client_that_is_gone_has_no_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
        with near:
            assert peer_of(near.fileno()) == "127.0.0.1"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError):
                near.recv(1)
            assert peer_of(near.fileno()) == ""
