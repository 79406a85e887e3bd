"""Every connection comes in here, and whatever it does ends it and nothing else."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from unittest import mock

import hypercorn.asyncio.run
import hypercorn.trio.run
import pytest
import trio
from hypercorn.asyncio import serve as serve_asyncio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from structlog.testing import capture_logs

from tests.support import inside
from tests.support.inside import PATIENCE_SECONDS, events, exchange, get, process_kept, read, served, settings
from tests.support.secure import Client, client_context, files, heard
from tests.support.tokens import ec_key, key_server, token
from trio_sse.access import key_set
from trio_sse.access.admission import Accepted
from trio_sse.access.request import StreamRequest
from trio_sse.asgi import Application
from trio_sse.delivery.connection import Connection
from trio_sse.server.fleet import Fleet
from trio_sse.server.front import Front
from trio_sse.server.http1 import Head
from trio_sse.service import Service

CLOSE = "Connection: close"
HELLO_END = b'"replayed":0}\n\n'


def application(**values: Any) -> Application:
    """Without a Redis: what comes in by the front does not need one."""
    return Application(settings(redis_host="127.0.0.1", redis_port=1, log_level="error", **values))


async def opened(port: int, path: str = "/sse") -> tuple[trio.SocketStream, bytes]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(get(path, version="1.0"))
    return stream, await read(stream, HELLO_END)


@pytest.fixture(params=[True, False], ids=["direct", "quart"])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with served(application(direct=request.param)) as port:
        yield port


async def test_streams_and_pages_come_through_the_same_port(port: int) -> None:
    stream, received = await opened(port, "/sse?user_id=ann")
    async with stream:
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"200" in head.splitlines()[0]
        assert b"content-type: text/event-stream" in head.lower()
        assert events(body)[0].json()["user_id"] == "ann"
        page = await exchange(port, get("/", CLOSE))
        assert page.startswith(b"HTTP/1.1 200")
        refused = await exchange(port, get("/sse?user_id=*", CLOSE))
        assert refused.startswith(b"HTTP/1.1 400")
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["status"] == 400


async def test_a_request_that_comes_in_pieces_is_answered(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for piece in (b"GET /hea", b"lthz HTTP/1.1\r\n", b"Host: x\r\nConnection: close\r\n\r\n"):
            await stream.send_all(piece)
        assert b'"ok"' in await read(stream)


async def test_the_stop_of_the_server_ends_the_body_of_every_stream() -> None:
    async with served(application()) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(get("/sse"))
        await read(stream, HELLO_END)
    async with stream:
        assert (await read(stream)).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("direct", [True, False])
async def test_before_the_server_stops_every_stream_is_told_when_to_come_back(direct: bool) -> None:
    async with served(application(direct=direct, drain_seconds=0.1)) as port:
        streams = [(await opened(port))[0] for _ in range(3)]
    for stream in streams:
        async with stream:
            assert b"event: draining" in await read(stream)


async def test_the_stop_of_the_server_does_not_wait_for_a_request_that_never_comes() -> None:
    async with served(application()) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await exchange(port, get("/healthz", CLOSE))
        await stream.send_all(b"GET /sse HT")
    async with stream:
        assert await read(stream) == b""


async def test_what_a_client_sent_does_not_stay_in_memory_with_its_stream() -> None:
    async with served(application()) as port:
        stream, _ = await opened(port)
        async with stream:
            requests = [held for held in gc.get_objects() if isinstance(held, StreamRequest | Head)]
            assert requests == []


class BrokenError(Exception):
    pass


async def test_what_one_connection_raises_ends_it_alone_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, valkey: int
) -> None:

    really_open = Service.open

    def sometimes_broken(service: Service, accepted: Accepted) -> Connection:
        if accepted.user_id == "broken":
            raise BrokenError
        return really_open(service, accepted)

    monkeypatch.setattr(Service, "open", sometimes_broken)
    app = Application(settings(redis_host="127.0.0.1", redis_port=valkey, log_level="error"))
    async with served(app) as port:
        stream, _ = await opened(port)
        async with stream:
            for _ in range(3):
                assert await exchange(port, get("/sse?user_id=broken")) == b""
            answer = await exchange(port, get("/readyz", CLOSE))
            told = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert told["totals"]["connection_errors"] == 3
            assert told["connections"] == 1


async def test_a_malformed_chunk_does_not_end_the_server() -> None:
    """pgjones/hypercorn#203: without it this ends the process."""
    async with served(application()) as port:
        for _ in range(3):
            head = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            await exchange(port, head + b"zz\r\n", until=b"\r\n")
        assert b'"ok"' in await exchange(port, get("/healthz", CLOSE))


@pytest.mark.parametrize("inside", [BrokenError(), ExceptionGroup("", [BrokenError()])])
async def test_an_error_beside_a_cancellation_does_not_hide_it(
    monkeypatch: pytest.MonkeyPatch, inside: Exception
) -> None:
    async def broken_when_cancelled(*_: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise inside

    monkeypatch.setattr("trio_sse.server.front.read_head", broken_when_cancelled)
    service = Service(settings())
    near, far = trio.socket.socketpair()
    with far, trio.move_on_after(0) as scope:
        async with trio.open_nursery() as nursery:
            front = Front(service, nursery)
            monkeypatch.setattr(front, "_watch_stop", lambda _: None)
            context = WorkerContext(None)
            stream = trio.SocketStream(near)
            nursery.start_soon(front.enter, service, Config(), context, {}, stream)
    near.close()
    assert scope.cancelled_caught
    assert service.counters.connection_errors == 1


async def test_streams_end_once_it_is_known_that_the_server_stops(nursery: trio.Nursery) -> None:
    """Whoever asks for the end first: an HTTP/2 connection says GOAWAY with the end of its last stream."""
    service = Service(settings())
    front = Front(service, nursery)
    front._context_on_trio = context = WorkerContext(None)
    known = []

    class Ended(inside.Client):
        def close(self) -> None:
            known.append(context.terminated.is_set())

    Ended(inside.opened(service))
    await front.finish()
    assert known == [True]


async def test_after_the_service_hypercorn_has_its_own_server_back(nursery: trio.Nursery) -> None:
    names = [
        (module, name)
        for module in (hypercorn.trio.run, hypercorn.asyncio.run)
        for name in ("TCPServer", "raise_shutdown")
    ]
    before = [getattr(*name) for name in names]
    with Front(Service(settings()), nursery).installed():
        assert all(getattr(*name) is not own for name, own in zip(names, before, strict=True))
    assert [getattr(*name) for name in names] == before


@pytest.mark.parametrize("name", ["TCPServer", "raise_shutdown"])
async def test_a_hypercorn_without_a_place_for_the_front_is_told_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, nursery: trio.Nursery
) -> None:
    monkeypatch.delattr(hypercorn.asyncio.run, name)
    left = dict(vars(hypercorn.trio.run))
    with capture_logs() as lines, Front(Service(settings()), nursery).installed():
        assert not hasattr(hypercorn.asyncio.run, name)
        assert vars(hypercorn.trio.run) == left
    assert "streams are served by Quart" in lines[0]["event"]


def under_asyncio(
    app: Application,
    test: Callable[[int, asyncio.Event], Coroutine[Any, Any, None]],
    *,
    secure: bool = False,
    max_requests: int | None = None,
) -> None:
    """Run `test` beside Hypercorn's asyncio worker, as plain `hypercorn trio_sse:app` has it.

    It gets the port, and the event that asks the worker to stop."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.max_requests = max_requests
    if secure:
        config.certfile, config.keyfile = map(str, files())

    async def main() -> None:
        stop = asyncio.Event()
        worker = asyncio.ensure_future(
            serve_asyncio(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        )
        try:
            await asyncio.wait_for(test(port, stop), PATIENCE_SECONDS)
        finally:
            stop.set()
            await asyncio.wait_for(worker, PATIENCE_SECONDS)

    with process_kept():
        asyncio.run(main())


async def ask(port: int, request: bytes, until: bytes | None = None, *, secure: bool = False) -> bytes:
    for _ in range(1000):
        try:
            tls = client_context() if secure else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
    writer.write(request)
    received = await (reader.readuntil(until) if until else reader.read())
    writer.close()
    return received


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("max_requests", [None, 1000], ids=["uncounted", "counted"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "quart"])
def test_the_asyncio_worker_serves_the_same(direct: bool, max_requests: int | None, secure: bool) -> None:
    opened = []

    def noted(fleet: Fleet, *arguments: Any) -> None:
        opened.append(arguments)
        really_open(fleet, *arguments)

    async def test(port: int, _stop: asyncio.Event) -> None:
        for _ in range(3):
            assert b'"ok"' in await ask(port, get("/healthz", CLOSE), secure=secure)
            assert b"event: connected" in await ask(port, get("/sse"), until=HELLO_END, secure=secure)
        assert (await ask(port, get("/nothing", CLOSE), secure=secure)).startswith(b"HTTP/1.1 404")

    really_open = Fleet.open
    with mock.patch.object(Fleet, "open", noted):
        under_asyncio(application(direct=direct), test, secure=secure, max_requests=max_requests)
    assert len(opened) == (3 if direct and max_requests is None else 0)


def test_the_asyncio_worker_ends_its_streams_when_it_stops() -> None:
    async def test(port: int, stop: asyncio.Event) -> None:
        await ask(port, get("/healthz", CLOSE))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/sse"))
        await reader.readuntil(HELLO_END)
        stop.set()
        rest = await reader.read()
        assert b"event: draining" in rest
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()

    under_asyncio(application(), test)


async def test_the_heads_of_later_requests_are_bounded_too(port: int) -> None:
    many = ["a: b"] * 101
    received = await exchange(port, get("/healthz") + get("/healthz", *many))
    assert received.count(b"HTTP/1.1 200") == 1
    assert received.count(b"HTTP/1.1 431") == 1
    received = await exchange(port, get("/healthz") + get("/healthz", *many[:90], CLOSE))
    assert received.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("target", ["?a", "http://[/", "sse", "*", "host:80", "http:///"])
async def test_a_target_that_is_none_is_told_so(port: int, target: str) -> None:
    with capture_logs() as logs:
        received = await exchange(port, get(target, CLOSE))
    assert received.startswith(b"HTTP/1.1 400")
    assert not logs


@pytest.mark.parametrize("target", ["http://x/healthz", "/healthz?a", "/healthz?//[", "HTTPS://x:1/healthz"])
async def test_a_target_may_be_whole(port: int, target: str) -> None:
    assert (await exchange(port, get(target, CLOSE))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("direct", [True, False])
async def test_whoever_waits_for_keys_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(key_set, "JWKS_TIMEOUT_SECONDS", 3600)
    with key_server() as keys:
        keys.may_answer.clear()
        values = {"auth": "jwt", "jwt_jwks_url": keys.url, "drain_seconds": 0, "direct": direct}
        async with served(application(**values)) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            bearer = f"Authorization: Bearer {token(ec_key(), {'kid': 'one'})}"
            await stream.send_all(get("/sse", bearer))
            await trio.to_thread.run_sync(keys.being_asked.wait)
        await stream.aclose()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"", b""),
        (b"GET /healthz HT", b""),
        (get("/healthz"), b'"ok"}'),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\x01\0\0\0\0"),
    ],
    ids=["nothing", "half a head", "a request that was answered", "HTTP/2 without a request"],
)
async def test_whoever_asks_for_nothing_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, said: bytes, answer: bytes
) -> None:
    """Proxies keep connections open, and browsers open them before they need one."""
    monkeypatch.setattr("trio_sse.server.front.STOP_GRACE_SECONDS", 3600)
    monkeypatch.setattr(Config, "keep_alive_timeout", 3600)
    async with served(application(drain_seconds=0)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(said)
        await read(stream, answer)
        assert b'"ok"' in await exchange(port, get("/healthz", CLOSE))  # by now the first has come in
    await stream.aclose()


async def opened_with_tls(port: int, *alpn: str) -> trio.SSLStream[trio.SocketStream]:
    sock = await trio.open_tcp_stream("127.0.0.1", port)
    context = client_context(ssl.TLSVersion.TLSv1_3, *alpn)
    stream = trio.SSLStream(sock, context, https_compatible=True)
    await stream.do_handshake()
    return stream


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "quart"])
async def test_over_tls_all_is_the_same(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    really_open = Fleet.open

    def noted(fleet: Fleet, *arguments: Any) -> None:
        really_open(fleet, *arguments)
        sizes.append(len(fleet))

    monkeypatch.setattr(Fleet, "open", noted)
    async with served(application(direct=direct, drain_seconds=0.1), files=files()) as port:
        for request, answer in (
            (get("/healthz", CLOSE), b'"ok"'),
            (get("/sse?user_id=*", CLOSE), b"HTTP/1.1 400"),
            (get("/nothing", CLOSE), b"HTTP/1.1 404"),
            (get("/healthz", *["a: b"] * 101), b"HTTP/1.1 431"),
        ):
            stream = await opened_with_tls(port, "http/1.1")
            await stream.send_all(request)
            assert answer in await read(stream)
            await stream.transport_stream.aclose()
        pieces = await opened_with_tls(port)
        for piece in (b"GET /sse?user_id=ann HT", b"TP/1.1\r\nHost: x", b"\r\n\r\n"):
            await pieces.send_all(piece)
            await trio.sleep(0.01)
        whole = await opened_with_tls(port)
        await whole.send_all(get("/sse?user_id=ann"))
        old = await opened_with_tls(port)
        await old.send_all(get("/sse?user_id=ann", version="1.0"))
        for stream in (pieces, whole, old):
            assert b"event: connected" in await read(stream, HELLO_END)
        assert sizes == ([1, 2, 3] if direct else [])
    for stream in (pieces, whole, old):
        rest = await read(stream)
        assert b"event: draining" in rest
        assert rest.endswith(b"0\r\n\r\n") is (stream is not old)
        await stream.transport_stream.aclose()


@pytest.mark.parametrize("how_far", ["nothing", "half a hello", "no request", "half a head"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "quart"])
async def test_a_handshake_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, direct: bool, how_far: str
) -> None:
    monkeypatch.setattr("trio_sse.server.front.STOP_GRACE_SECONDS", 3600)
    monkeypatch.setattr(Config, "keep_alive_timeout", 3600)
    monkeypatch.setattr(Config, "ssl_handshake_timeout", 3600)
    async with served(application(direct=direct, drain_seconds=0), files=files()) as port:
        if how_far in ("nothing", "half a hello"):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            if how_far == "half a hello":
                await stream.send_all(Client().said()[:50])
        else:
            secure = await opened_with_tls(port)
            if how_far == "half a head":
                await secure.send_all(b"GET /healthz HT")
            stream = secure.transport_stream
        other = await opened_with_tls(port)
        await other.send_all(get("/healthz", CLOSE))
        assert b'"ok"' in await read(other)  # by now the first has come in
        await other.transport_stream.aclose()
    await stream.aclose()


async def test_who_agreed_upon_http2_is_not_answered_in_http1() -> None:
    async with served(application(drain_seconds=0), files=files()) as port:
        stream = await opened_with_tls(port, "h2")
        await stream.send_all(get("/sse"))
        assert b"HTTP/1" not in await read(stream)
        await stream.transport_stream.aclose()


async def test_over_tls_a_stop_does_not_wait_for_http2_without_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_sse.server.front.STOP_GRACE_SECONDS", 3600)
    monkeypatch.setattr(Config, "keep_alive_timeout", 3600)
    async with served(application(drain_seconds=0), files=files()) as port:
        silent, stream = await opened_with_tls(port, "h2"), await opened_with_tls(port, "h2")
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        await read(stream, b"\0\0\0\x04\x01\0\0\0\0")
    for one in (silent, stream):
        await one.transport_stream.aclose()


async def test_whoever_waits_for_keys_gets_a_stream_of_its_own_over_tls_too() -> None:
    key = ec_key()
    with key_server() as keys:
        keys.offer(one=key)
        keys.may_answer.clear()
        values = {"auth": "jwt", "jwt_jwks_url": keys.url, "drain_seconds": 0}
        async with served(application(**values), files=files()) as port:
            client = Client()
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            while not client.shaken:
                await stream.send_all(client.said())
                client.shaken = client.shake(bytes(await stream.receive_some()))
            bearer = f"Authorization: Bearer {token(key, {'kid': 'one'})}"
            await stream.send_all(client.said(get("/sse", bearer)))
            await trio.to_thread.run_sync(keys.being_asked.wait)
            keys.may_answer.set()
            assert b"event: connected" in await heard(client, stream, HELLO_END)
        rest = await heard(client, stream)
        assert rest.endswith(b"0\r\n\r\n")
        assert client.ended, "the fleet says close_notify, Hypercorn does not"
        await stream.aclose()
