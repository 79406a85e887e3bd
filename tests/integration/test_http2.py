"""One HTTP/2 connection carries the streams of many: what ends one of them, and what ends all.

Each with a proxy in mind that puts all its users on one connection, over TLS and by prior knowledge.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.support.client import connect, eventually
from tests.support.http2 import Http2, Stream2, http2
from tests.support.process import Service, Services
from tests.support.valkeys import certificate
from tests.support.variants import COMMANDS, HYPERCORN, HYPERCORN_TRIO, TRIO_SSE, Variant

pytestmark = pytest.mark.integration

SETTINGS = {"SSE_PUBLISH_TOKENS": "a-publish-token-of-these-tests", "SSE_DRAIN_SECONDS": "0"}
WAYS = [(variant, secure) for variant in COMMANDS for secure in (False, True)]
_number = itertools.count()

Connect = Callable[..., AbstractAsyncContextManager[Http2]]


def begin(
    services: Services, variant: Variant, secure: bool, pair: tuple[Path, Path], **more: str
) -> tuple[Service, Connect]:
    cert, key = map(str, pair)
    arguments: tuple[str, ...] = ()
    settings = {**SETTINGS, **more}
    if secure and variant.on_hypercorn:
        arguments = ("--certfile", cert, "--keyfile", key)
    elif secure:
        settings |= {"SSE_TLS_CERT": cert, "SSE_TLS_KEY": key}
    service = services(
        variant, *arguments, ready=None, redis_port=None, port=None, **settings
    ).wait_until_answers()
    return service, functools.partial(http2, service.port, cert if secure else None)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=WAYS, ids=[f"{way[0]}-{'tls' if way[1] else 'plain'}" for way in WAYS])
def way(
    request: pytest.FixtureRequest, module_services: Services, pair: tuple[Path, Path]
) -> tuple[Service, Connect]:
    variant, secure = request.param
    return begin(module_services, variant, secure, pair)


class Listener:
    """A stream of one user, and how many messages it got."""

    def __init__(self, service: Service, stream: Stream2, user: str) -> None:
        self._service = service
        self.stream = stream
        self._user = user
        self._count = itertools.count()

    async def hears(self) -> None:
        """A message that is published now comes."""
        n = next(self._count)
        self._service.publish(self._user, n=n)
        while (event := await self.stream.event()).name != "message":
            pass
        assert event.json["n"] == n


async def listen(service: Service, client: Http2) -> Listener:
    user = f"user-{next(_number)}"
    stream = await client.get(f"/sse?user_id={user}")
    assert stream.status == 200
    assert (await stream.event()).name == "connected"
    return Listener(service, stream, user)


@asynccontextmanager
async def listening(way: tuple[Service, Connect]) -> AsyncIterator[tuple[Http2, Listener]]:
    service, connecting = way
    async with connecting() as client:
        yield client, await listen(service, client)


async def test_a_stream_goes_on_beside_any_number_of_requests(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        for _ in range(30):
            asked = [client.ask("/healthz") for _ in range(50)]
            await client.flush()
            await client.until(lambda asked=asked: all(stream.ended for stream in asked))  # type: ignore[misc]
            assert {stream.status for stream in asked} == {200}
            await listener.hears()
        assert client.goaway is None


async def test_a_stream_too_many_is_refused_alone(way: tuple[Service, Connect]) -> None:
    """RFC 9113, 5.1.2."""
    async with listening(way) as (client, listener):
        asked = [client.ask("/sse?user_id=many") for _ in range(150)]
        await client.flush()
        await client.until(lambda: all(stream.status or stream.ended for stream in asked))
        refused = [stream for stream in asked if stream.reset_by is not None]
        assert {stream.reset_by for stream in refused} == {ErrorCodes.REFUSED_STREAM}
        assert len(refused) == 51
        await listener.hears()
        for stream in asked[:20]:
            await stream.reset()
        assert (await client.whole("/healthz")).status == 200
        await listener.hears()


Fields = list[tuple[str | bytes, str | bytes]]

WELL_FORMED: Fields = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]


def without(name: str) -> Fields:
    return [field for field in WELL_FORMED if field[0] != name]


MALFORMED: dict[str, Fields] = {
    "no path": without(":path"),
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no authority": without(":authority"),
    "path twice": [(":path", "/"), *WELL_FORMED],
    "path of other bytes": [(":path", b"/\xff\xfe"), *without(":path")],
    "path without a slash": [(":path", "?a"), *without(":path")],
    "empty path": [(":path", ""), *without(":path")],
    "method of other bytes": [(":method", b"G\xcbT"), *without(":method")],
    "unknown pseudo": [*WELL_FORMED, (":a", "b")],
    "pseudo after others": [("a", "b"), *WELL_FORMED],
    "upper case": [*WELL_FORMED, ("A", "b")],
    "line break": [*WELL_FORMED, ("a", b"b\r\nc")],
    "connection": [*WELL_FORMED, ("connection", "close")],
    "no length": [*WELL_FORMED, ("content-length", "x")],
    "a length and no body": [*WELL_FORMED, ("content-length", "5")],
}


async def test_a_malformed_request_is_reset_alone(way: tuple[Service, Connect]) -> None:
    """RFC 9113, 8.1.1."""
    async with listening(way) as (client, listener):
        for name, headers in MALFORMED.items():
            stream = client.ask_raw(headers)
            await client.flush()
            await client.until(lambda stream=stream: stream.ended)  # type: ignore[misc]
            assert stream.reset_by == ErrorCodes.PROTOCOL_ERROR or stream.status >= 400, name
        await listener.hears()


async def test_a_tunnel_is_not_made(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        plain = client.ask_raw([(":method", "CONNECT"), (":authority", "x:1")], end=False)
        pseudo = [(":path", "/sse"), (":scheme", "https"), (":authority", "x"), (":protocol", "websocket")]
        extended = client.ask_raw([(":method", "CONNECT"), *pseudo], end=False)
        await client.flush()
        await client.until(lambda: plain.ended and extended.ended)
        assert (plain.status, extended.status) == (501, 501)
        await client.send(plain, 1000)
        await listener.hears()


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/publish", 401), ("/healthz", 405)])
async def test_a_body_may_come_after_its_answer(way: tuple[Service, Connect], path: str, status: int) -> None:
    """As often as it likes: what is dropped is taken out of the connection's window."""
    async with listening(way) as (client, listener):
        for _ in range(4):
            stream = client.ask(path, [("content-length", "50000")], method="POST", end=False)
            await client.flush()
            await client.send(stream, 10)
            await client.until(lambda stream=stream: stream.ended)  # type: ignore[misc]
            assert (stream.status, stream.reset_by) == (status, None)
            await client.send(stream, 49_990, end=True)
            await listener.hears()
        at_once = client.ask(path, method="POST", end=False)
        await client.send(at_once, 500_000, end=True)
        await client.until(lambda: at_once.ended)
        assert at_once.status == status
        await listener.hears()


async def test_a_body_without_end_is_stopped(way: tuple[Service, Connect]) -> None:
    """RFC 9113, 8.1."""
    async with listening(way) as (client, listener):
        stream = client.ask("/nothing", method="POST", end=False)
        await client.send(stream, 10_000_000)
        assert (stream.status, stream.reset_by) == (404, ErrorCodes.NO_ERROR)
        await listener.hears()


async def test_a_body_that_differs_from_its_length_resets_its_stream(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        for size in (5, 50):
            stream = client.ask("/publish", [("content-length", "10")], method="POST", end=False)
            await client.send(stream, size, end=True)
            await client.until(lambda stream=stream: stream.ended)  # type: ignore[misc]
            assert stream.reset_by == ErrorCodes.PROTOCOL_ERROR or stream.status == 401
        await listener.hears()


async def test_small_pieces_of_a_body_hold_up_nobody(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        for path in ("/nothing", "/publish"):
            stream = client.ask(path, method="POST", end=False)
            for _ in range(2000):
                client.http.send_data(stream.number, b"x")
            await client.flush()
            await client.until(lambda stream=stream: stream.ended)  # type: ignore[misc]
        await listener.hears()


async def test_trailers_pings_and_priorities(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        stream = client.ask("/nothing", method="POST", end=False)
        await client.send(stream, 10)
        client.http.send_headers(stream.number, [("a", "b")], end_stream=True)
        await client.flush()
        await client.until(lambda: stream.ended)
        assert stream.status == 404
        for number in range(1, 5001, 2):
            client.http.prioritize(number, weight=1, depends_on=number + 2, exclusive=True)
        await client.ping()
        own = listener.stream.number
        await client.transport.send_all(
            b"\0\0\x05\x02\0" + own.to_bytes(4, "big") + own.to_bytes(4, "big") + b"\x01"
        )
        await client.ping()
        await listener.hears()


async def test_windows_and_settings_change_while_a_stream_goes_on(way: tuple[Service, Connect]) -> None:
    async with listening(way) as (client, listener):
        for changed in (
            {SettingCodes.INITIAL_WINDOW_SIZE: 0},
            {SettingCodes.MAX_FRAME_SIZE: 20_000},
            {SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000},
            {SettingCodes.HEADER_TABLE_SIZE: 0},
            {SettingCodes.HEADER_TABLE_SIZE: 1_000_000},
            {SettingCodes.INITIAL_WINDOW_SIZE: 65_535},
        ):
            client.http.update_settings(dict(changed.items()))
            await client.flush()
            if changed.get(SettingCodes.INITIAL_WINDOW_SIZE) == 0:
                client.http.increment_flow_control_window(100_000, listener.stream.number)
                await client.flush()
            await listener.hears()
            assert (await client.get("/healthz")).status == 200
            await listener.hears()


async def test_the_client_s_goaway_leaves_open_streams_alone(way: tuple[Service, Connect]) -> None:
    """RFC 9113, 6.8. With the last of them the connection ends."""
    async with listening(way) as (client, listener):
        await client.transport.send_all(b"\0\0\x08\x07\0\0\0\0\0" + bytes(8))
        await client.ping()
        await listener.hears()
        await listener.hears()
        await listener.stream.reset()
        await eventually(lambda: client.closed, "the connection ends")


async def test_what_is_taken_back_over_and_over_leaves_the_others_alone(way: tuple[Service, Connect]) -> None:
    """CVE-2023-44487. The connection takes no more requests, and ends with its last stream."""
    service, _ = way
    async with listening(way) as (client, listener):
        for _ in range(100):
            if client.goaway is not None:
                break
            await client.get_and_reset("/sse?user_id=mallory", [], times=20)
        await client.until(lambda: client.goaway)
        assert client.goaway is not None
        assert client.goaway.error_code == ErrorCodes.NO_ERROR
        await listener.hears()
        late = client.ask("/healthz")
        await client.flush()
        await client.until(lambda: late.ended)
        assert late.reset_by == ErrorCodes.REFUSED_STREAM
        await listener.hears()
        await listener.stream.reset()
        await eventually(lambda: client.closed, "the connection ends")
        await eventually(lambda: service.connections == 0, "nothing is left of it")


async def test_a_client_that_has_its_streams_reset_is_not_served_for_ever(
    way: tuple[Service, Connect],
) -> None:
    """CVE-2025-8671: a window that overflows resets the stream, which is the server's doing."""
    async with listening(way) as (client, _):
        for _ in range(300):
            streams = [client.ask("/sse?user_id=mallory") for _ in range(10)]
            for stream in streams:
                client.http._data_to_send += (  # what h2 would not send
                    b"\0\0\x04\x08\0" + stream.number.to_bytes(4, "big") + b"\x7f\xff\xff\xff"
                )
            try:
                await client.flush()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
        await eventually(lambda: client.closed, "the connection ends")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
@pytest.mark.parametrize("drain", ["0", "1"])
async def test_a_stop_ends_each_stream_and_says_goaway(
    start: Services, pair: tuple[Path, Path], variant: Variant, secure: bool, drain: str
) -> None:
    service, connecting = await trio.to_thread.run_sync(
        functools.partial(begin, start, variant, secure, pair, SSE_DRAIN_SECONDS=drain)
    )
    async with connecting() as client:
        streams = [(await listen(service, client)).stream for _ in range(10)]
        stopped = await trio.to_thread.run_sync(service.stop)
        assert stopped.code == 0
        await eventually(lambda: client.closed, "the connection ends")
        assert all(stream.ended and stream.reset_by is None for stream in streams)
        assert client.goaway is not None


@pytest.fixture(scope="module", params=[TRIO_SSE, HYPERCORN_TRIO, HYPERCORN], ids=str)
def plain(request: pytest.FixtureRequest, module_services: Services, pair: tuple[Path, Path]) -> Service:
    return begin(module_services, request.param, False, pair)[0]


UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "H2C": b"Connection: upgrade\r\nupgrade: H2C\r\n",
    "no settings": b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    "bad settings": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: =\r\n",
    "anything": b"Connection: Upgrade\r\nUpgrade: anything/1.0, h2c\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "websocket without a key": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("path", ["/sse", "/healthz", "/nothing"])
@pytest.mark.parametrize("name", UPGRADES)
async def test_no_connection_is_upgraded(plain: Service, name: str, path: str) -> None:
    async with await connect(plain.port) as transport:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode()
        await transport.send_all(request + UPGRADES[name] + b"\r\n")
        with trio.fail_after(20):
            received = bytes(await transport.receive_some())
        assert received.startswith(b"HTTP/1.1 ")
        assert not received.startswith(b"HTTP/1.1 101")


async def test_a_connection_becomes_http2_in_its_beginning_only(plain: Service) -> None:
    async with await connect(plain.port) as transport:
        await transport.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(20):
            received = b""
            while b"ok" not in received:
                received += await transport.receive_some()
            await transport.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
            received = bytes(await transport.receive_some())
        assert received.startswith(b"HTTP/1.1 ")
