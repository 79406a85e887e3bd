"""Which requests get a stream on their own socket, and that all others reach Hypercorn with every byte."""

from __future__ import annotations

import h11
import pytest
import trio
from hypercorn.config import Config
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import get, settings, stream_pair
from trio_sse.access.admission import Accepted, Admission
from trio_sse.access.cors import Headers
from trio_sse.access.problem import Refused
from trio_sse.access.request import StreamRequest, read_request
from trio_sse.server.http1 import (
    MAX_FIELDS,
    Head,
    OtherRequest,
    Replayed,
    TooLarge,
    plain_request,
    read_head,
    stream_head,
    whole_response,
)
from trio_sse.server.requests import is_for_a_stream
from trio_sse.settings import Settings

Answer = Head | OtherRequest | TooLarge | None


async def stream_headers() -> Headers:
    answer = await Admission(settings()).admit(b"", [], str)
    assert isinstance(answer, Accepted)
    return answer.headers


def asked(answer: Answer) -> StreamRequest | Refused:
    assert isinstance(answer, Head)
    return read_request(answer.query, answer.fields, settings())


async def ask(
    *parts: bytes, config: Config | None = None, received: bytes = b"", chosen: Settings | None = None
) -> Answer:
    """Have a request read that comes in these parts, each when the one before has been read. One that is not
    for a stream is somebody else's."""
    answer: Answer = None
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            nonlocal answer
            answer = await read_head(near, received, config or Config())
            nursery.cancel_scope.cancel()

        for part in parts:
            await wait_all_tasks_blocked()
            await far.send_all(part)
        await wait_all_tasks_blocked()
        await far.send_eof()
    if isinstance(answer, Head) and not is_for_a_stream(answer, config or Config(), chosen or settings()):
        return OtherRequest(answer.received)
    return answer


async def response_to(answer: Head) -> h11.Response:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.receive_data(stream_head(await stream_headers(), Config(), http11=answer.http11))
    response = parser.next_event()
    assert isinstance(response, h11.Response)
    return response


STREAMS = [
    (get("/sse"), None, None),
    (get("/sse?user_id=ann"), "ann", None),
    (get("/sse?user_id=a%20b&x=1"), "a b", None),
    (get("/sse", "Last-Event-ID: 7-1"), None, "7-1"),
    (get("/sse", "LAST-EVENT-ID:7-1 "), None, "7-1"),
    (get("/sse", version="1.0"), None, None),
    (b"GET /sse HTTP/1.0\r\n\r\n", None, None),
    (get("/sse", "Content-Length: 0"), None, None),
    (get("/sse", "Accept: text/event-stream", "User-Agent: x/1 (y; z)", "Cookie: a=b; c=d"), None, None),
    (get("/sse", "X-Long: " + "x" * 9000), None, None),
]
OTHERS = [
    get("/"),
    get("/sse/"),
    get("/sse2"),
    get("/SSE"),
    get("/sse", "Upgrade: websocket", "Connection: upgrade"),
    get("/sse", "Expect: 100-continue", "Content-Length: 1"),
    get("/sse", "Transfer-Encoding: chunked"),
    get("/sse", "Content-Length: 3") + b"abc",
    get("/sse", "Host: second"),
    get("/sse", "Bad Name: x"),
    get("/sse", version="2.0"),
    get("/sse").replace(b"Host: localhost\r\n", b""),
    get("/sse").replace(b"GET", b"HEAD"),
    get("/sse").replace(b"GET", b"POST"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01 hello TLS\r\n\r\n",
    b"\x00\r\n\r\n",
]


@pytest.mark.parametrize(("request_bytes", "user_id", "last_event_id"), STREAMS)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_a_stream_is_recognised_however_its_request_comes(
    request_bytes: bytes, user_id: str | None, last_event_id: str | None, pieces: str
) -> None:
    if pieces == "whole":
        answer = await ask(request_bytes)
    else:
        middle = min(40, len(request_bytes) // 2)
        answer = await ask(*(request_bytes[i : i + 1] for i in range(middle)), request_bytes[middle:])
    assert isinstance(answer, Head)
    request = asked(answer)
    assert isinstance(request, StreamRequest)
    assert (request.user_id, request.start.last_event_id) == (user_id, last_event_id)
    assert answer.http11 is (b"HTTP/1.1" in request_bytes)


@pytest.mark.parametrize("request_bytes", OTHERS)
@pytest.mark.parametrize("pieces", ["whole", "two"])
async def test_anything_else_is_handed_on_as_it_came(request_bytes: bytes, pieces: str) -> None:
    cut = 0 if pieces == "whole" else 5
    parts = [part for part in (request_bytes[:cut], request_bytes[cut:]) if part]
    answer = await ask(*parts)
    assert isinstance(answer, OtherRequest)
    assert request_bytes.startswith(answer.received)
    assert answer.received


async def test_what_was_received_before_is_part_of_the_request() -> None:
    answer = await ask(get("/sse?user_id=ann")[9:], received=get("/sse?user_id=ann")[:9])
    assert isinstance(answer, Head)
    assert isinstance(await ask(received=get("/sse")), Head)
    other = await ask(get("/")[9:], received=get("/")[:9])
    assert other == OtherRequest(get("/"))


async def test_the_head_of_the_response_is_http_with_the_headers_of_a_stream() -> None:
    answer = await ask(get("/sse"))
    assert isinstance(answer, Head)
    response = await response_to(answer)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert response.status_code == 200
    assert headers.pop("date")
    headers.pop("server", None)
    assert headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "transfer-encoding": "chunked",
        "connection": "close",
    }


async def test_an_old_client_gets_no_chunks() -> None:
    answer = await ask(get("/sse", version="1.0"))
    assert isinstance(answer, Head)
    head = stream_head(await stream_headers(), Config(), http11=answer.http11)
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize("query", ["user_id=*", "user_id=%0a", "user_id=%ff"])
async def test_a_stream_that_cannot_be_is_refused_on_the_same_socket(query: str) -> None:
    answer = await ask(get(f"/sse?{query}", "Origin: https://a.example"))
    assert isinstance(answer, Head)
    refused = asked(answer)
    assert isinstance(refused, Refused)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(whole_response(refused, Config(), http11=answer.http11))
    response, body, end = (parser.next_event() for _ in range(3))
    assert isinstance(response, h11.Response)
    assert isinstance(body, h11.Data)
    assert isinstance(end, h11.EndOfMessage)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert response.status_code == 400
    assert headers["content-type"] == "application/problem+json"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["connection"] == "close"
    assert bytes(body.data) == refused.body


@pytest.mark.parametrize("begun", [b"", b"GET /s"])
async def test_a_client_that_leaves_before_its_request_is_complete_gets_nothing(begun: bytes) -> None:
    assert await ask(*([begun] if begun else [])) is None


@pytest.mark.parametrize("begun", [b"", b"GET /s"])
async def test_a_client_that_is_too_slow_gets_nothing(mock_clock: MockClock, begun: bytes) -> None:
    config = Config()
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await read_head(near, b"", config) is None

        if begun:
            await far.send_all(begun)
        await wait_all_tasks_blocked()
        mock_clock.jump(config.keep_alive_timeout - 0.1)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        mock_clock.jump(0.2)


async def test_a_broken_connection_gets_nothing() -> None:
    near, far = trio.socket.socketpair()
    with far:
        stream = trio.SocketStream(near)
        near.shutdown(trio.socket.SHUT_RDWR)
        assert await read_head(stream, b"", Config()) is None
        await stream.aclose()


@pytest.mark.parametrize("path", ["/sse", "/"])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    ("fields", "size", "too_large"),
    [
        (MAX_FIELDS, 1, False),
        (MAX_FIELDS + 1, 1, True),
        (12_800, 1, True),
        (2, 15_000, False),
        (2, 17_000, True),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
async def test_a_head_beyond_the_bounds_is_refused_however_it_comes(
    path: str, line_end: bytes, fields: int, size: int, too_large: bool, complete: bool
) -> None:
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: x", *[b"a: %b" % (b"b" * size)] * (fields - 1), b""]
    head = line_end.join(lines)
    answer = await ask(head[:40], head[40:] + (line_end if complete else b""))
    if too_large:
        assert isinstance(answer, TooLarge)
        assert answer.answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    elif complete:
        assert isinstance(answer, Head if path == "/sse" else OtherRequest)
    else:
        assert answer is None


async def test_the_bound_of_hypercorn_counts() -> None:
    config = Config()
    config.h11_max_incomplete_size = 100
    answer = await ask(b"GET /sse HTTP/1.1\r\nX: " + b"x" * 200, b"x" * 200, config=config)
    assert isinstance(answer, TooLarge)


async def test_a_body_is_no_part_of_the_head() -> None:
    request = get("/publish", "Content-Length: 40000").replace(b"GET", b"POST") + b"x\n" * 20_000
    assert isinstance(await ask(request), OtherRequest)


@pytest.mark.parametrize("cut", [None, 50, 150])
@pytest.mark.parametrize(("more", "allowed"), [(0, True), (1, False), (100, False)])
async def test_the_bound_holds_however_the_head_comes(more: int, allowed: bool, cut: int | None) -> None:
    config = Config()
    config.h11_max_incomplete_size = 200
    empty = len(get("/sse", "X: "))
    head = get("/sse", "X: " + "x" * (200 - empty + more))
    answer = await ask(*([head] if cut is None else [head[:cut], head[cut:]]), config=config)
    assert isinstance(answer, Head if allowed else TooLarge)


async def test_what_hypercorn_was_told_to_look_at_is_left_to_it() -> None:
    config = Config()
    config.server_names = ["a.example"]
    assert isinstance(await ask(get("/sse"), config=config), OtherRequest)


@pytest.mark.parametrize("line_ends", [b"\r\n", b"\n"])  # the short way of reading, and the long one
@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/sse", True),
        ("/ours/sse?user_id=5", True),
        ("/theirs/sse", True),
        ("/ours", False),
        ("/ours/", False),
        ("/oursx/sse", False),
        ("/ours/x/sse", False),
        ("//sse", False),
        ("/ours/ours/sse", False),
        ("/ours?/sse", False),
    ],
)
async def test_a_stream_is_found_under_the_path_of_the_service(
    path: str, stream: bool, line_ends: bytes
) -> None:
    config = Config()
    config.root_path = "/theirs/"
    request = get(path).replace(b"\r\n", line_ends)
    answer = await ask(request, config=config, chosen=settings(root_path="/ours"))
    assert isinstance(answer, Head if stream else OtherRequest)


async def test_without_a_path_of_its_own_the_service_is_under_none() -> None:
    assert isinstance(await ask(get("/ours/sse")), OtherRequest)


LINES = st.lists(
    st.sampled_from(
        [
            b"Host: a",
            b"host:b",
            b"Accept: */*",
            b"Content-Length: 0",
            b"Content-Length: 4",
            b"Expect: 100-continue",
            b"Transfer-Encoding: chunked",
            b"Last-Event-ID: 5",
            b" folded",
            b"No colon",
            b": empty",
            b"A:\x00",
            b"A: \xff",
            b"Upgrade: h2c",
            b"Connection: upgrade",
            b"A : b",
            b"",
        ]
    ),
    max_size=4,
)


@given(st.sampled_from([b"/sse", b"/sse?user_id=a", b"/", b"/sse#x", b"*"]), LINES)
async def test_the_short_way_of_reading_a_request_never_differs_from_the_long_way(
    target: bytes, lines: list[bytes]
) -> None:
    request_bytes = b"\r\n".join([b"GET %b HTTP/1.1" % target, *lines, b"", b""])
    end = request_bytes.index(b"\r\n\r\n") + 4
    whole, in_two = await ask(request_bytes[:end]), await ask(request_bytes[:4], request_bytes[4:end])
    assert type(whole) is type(in_two)
    if isinstance(whole, Head) and isinstance(in_two, Head):
        assert asked(whole) == asked(in_two)


async def test_bytes_put_back_are_read_again_before_new_ones() -> None:
    async with stream_pair() as (near, far):
        replayed = Replayed(near, b"hello", trio.CancelScope())
        await far.send_all(b"world")
        assert await replayed.receive_some(3) == b"hel"
        assert await replayed.receive_some(10) == b"lo"
        assert await replayed.receive_some(10) == b"world"
        await replayed.send_all(b"back")
        assert await far.receive_some(10) == b"back"
        await replayed.send_eof()
        assert await far.receive_some(10) == b""
        await replayed.aclose()


def test_fields_are_looked_for_as_if_all_had_been_read() -> None:
    lines = b"Host: x\r\nX-A:\r\nx-a:\tb \r\nCOOKIE: a=1\r\nX-Host:y\r\nCookie: host: z\r\n"
    head = plain_request(b"GET /sse?host:=1 HTTP/1.1\r\n" + lines + b"\r\n", 8192)
    assert head is not None
    assert head.fields == {b"host": b"x", b"x-a": b", b", b"cookie": b"a=1; host: z", b"x-host": b"y"}
    assert [head.fields.get(name, b"") for name in (b"x-a", b"cookie", b"a")] == [
        b", b",
        b"a=1; host: z",
        b"",
    ]
    assert len(head.fields) == 4
    assert b"host" in head.fields
    assert b"a" not in head.fields
    with pytest.raises(KeyError):
        head.fields[b"a"]
