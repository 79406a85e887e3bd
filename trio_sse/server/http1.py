"""HTTP/1 heads: reading that of a request, writing that of a response. Contains nothing about streams."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

import h11
import hypercorn.protocol.h11
import trio
from hypercorn.config import Config

from trio_sse.access.cors import Headers
from trio_sse.access.problem import Refused, refused
from trio_sse.access.request import join, joined
from trio_sse.patches import standing_in, with_own
from trio_sse.sockets import receive

_READ = 65536
_PLAIN_BYTES = 8192

MAX_FIELDS = 100
"""Header fields of one request. Browsers behind proxies send about 30."""

TOO_LARGE = f"the head of the request is too large, or has more than {MAX_FIELDS} header fields"


PlainOrSecure = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Head(NamedTuple):
    """The complete head of a request without a body."""

    method: bytes
    target: bytes
    http11: bool
    """Whether the client speaks HTTP/1.1."""
    fields: Mapping[bytes, bytes]
    """Names in lower case, lines of one name joined."""
    received: bytes
    """All bytes received, for Hypercorn to read again."""

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]


class TooLarge(NamedTuple):
    """A request whose head is too large. It was not parsed."""

    config: Config

    @property
    def answer(self) -> bytes:
        """The whole response (RFC 6585, 5)."""
        refusal = refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE, ())
        return whole_response(refusal, self.config, http11=True)


class OtherRequest(NamedTuple):
    """A request, complete or not, that Hypercorn answers: the bytes received so far."""

    received: bytes


async def read_head(
    stream: PlainOrSecure, received: bytes, config: Config, deadline: float | None = None
) -> Head | OtherRequest | TooLarge | None:
    """Read the first request of a connection. `received` is what was read before. Returns None if the client
    left or was too slow.

    Hypercorn's own bounds hold: the head must be complete by `deadline` (Trio's clock; None:
    `keep_alive_timeout` seconds from now) and within `h11_max_incomplete_size` bytes. It may have MAX_FIELDS
    fields. A request that h11 rejects is an OtherRequest: Hypercorn refuses it.
    """
    if deadline is None:
        deadline = trio.current_time() + config.keep_alive_timeout
    if not received:
        received = await _read(stream, deadline)
        if not received:
            return None
    limit = config.h11_max_incomplete_size
    if plain := plain_request(received, limit):
        return plain
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
    data = received
    try:
        while True:
            if is_too_large(received, limit):
                return TooLarge(config)
            parser.receive_data(data)
            event = parser.next_event()
            if event is not h11.NEED_DATA:
                break
            data = await _read(stream, deadline)
            if not data:
                return None
            received += data
        if not isinstance(event, h11.Request) or event.http_version not in (b"1.1", b"1.0"):
            return OtherRequest(received)
        if parser.they_are_waiting_for_100_continue:
            return OtherRequest(received)
        if not isinstance(parser.next_event(), h11.EndOfMessage):  # it has a body
            return OtherRequest(received)
        fields = joined(event.headers)
        return Head(event.method, event.target, event.http_version == b"1.1", fields, received)
    except h11.RemoteProtocolError:
        return OtherRequest(received)


# The request as browsers and proxies write it. To read it by this pattern takes a ninth of the time of h11
# (benchmarks/README.md). h11 reads every request that does not match.
_PLAIN = re.compile(
    rb"GET (/[!-~]*) HTTP/1\.1\r\n"
    rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+\r\n"
)
_BEYOND_PLAIN = re.compile(rb"\n(?:content-length|transfer-encoding|expect):")
_NAME = re.compile(rb"\n([^\r:]+):")


class PlainFields(Mapping[bytes, bytes]):
    """The header fields of a request that matched _PLAIN.

    A field is looked for when it is asked for. Of the 15 that a browser sends, few are; to take all of them
    apart took longer than anything else that Python does for a new stream.
    """

    __slots__ = ("_lower", "_received")

    def __init__(self, received: bytes, lower: bytes) -> None:
        self._received = received
        self._lower = lower
        """The same in lower case, so that names are found whatever their case."""

    def get(self, name: bytes, default: Any = None) -> Any:
        start = b"\n%b:" % name  # neither a target nor a value has a line end in it
        at = self._lower.find(start)
        if at < 0:
            return default
        value = self._value(at + len(start))
        while (at := self._lower.find(start, at + 1)) >= 0:
            value = join(name, value, self._value(at + len(start)))
        return value

    def _value(self, start: int) -> bytes:
        return self._received[start : self._received.index(b"\r", start)].strip(b"\t ")

    def __getitem__(self, name: bytes) -> bytes:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return bytes(value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and b"\n%b:" % name in self._lower

    def __iter__(self) -> Iterator[bytes]:
        return iter(dict.fromkeys(_NAME.findall(self._lower)))

    def __len__(self) -> int:
        return len(list(iter(self)))


def plain_request(received: bytes, limit: int) -> Head | None:
    """The whole request of up to `limit` bytes, as browsers and proxies write it. None: another reader must
    read it."""
    if len(received) > min(limit, _PLAIN_BYTES):
        return None
    match = _PLAIN.fullmatch(received)
    if match is None or received.count(b"\n") > MAX_FIELDS + 2:  # the first line and the empty one
        return None
    lower = received.lower()
    if lower.count(b"\nhost:") != 1 or _BEYOND_PLAIN.search(lower):
        return None
    return Head(b"GET", match[1], True, PlainFields(received, lower), received)


# The empty line that ends a head, as h11 finds it.
_END_OF_HEAD = re.compile(rb"\n\r?\n")


def is_too_large(received: bytes, most: int) -> bool:
    """Whether the first bytes of a request exceed the bounds of a head: `most` bytes and MAX_FIELDS fields.
    This check is cheap for any input; parsing it would block all connections for up to 50 ms."""
    end = _END_OF_HEAD.search(received, 0, most)
    if end is None:
        return len(received) > most or received.count(b"\n") > MAX_FIELDS + 1
    return received.count(b"\n", 0, end.start()) > MAX_FIELDS


class BoundedConnection(h11.Connection):
    """An h11 connection that refuses a head that is too large before it parses it. h11 itself bounds only
    incomplete heads."""

    def __init__(self, our_role: type[h11.SERVER], max_incomplete_event_size: int) -> None:
        super().__init__(our_role, max_incomplete_event_size)
        self._most = max_incomplete_event_size

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE and is_too_large(self.trailing_data[0], self._most):
            raise h11.RemoteProtocolError(TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return super().next_event()


@contextlib.contextmanager
def bounded_heads() -> Iterator[None]:
    """Make Hypercorn read requests with BoundedConnection: all but the first of a connection, and all with
    SSE_DIRECT=false."""
    ours = {"h11": with_own(h11, Connection=BoundedConnection)}
    with standing_in({hypercorn.protocol.h11: ours}, "only h11 bounds the heads that Hypercorn reads"):
        yield


async def _read(stream: PlainOrSecure, deadline: float) -> bytes:
    """Read from the client, waiting until `deadline`. Returns b"" if it left or the time is over."""
    if isinstance(stream, trio.SSLStream):
        with trio.move_on_at(deadline), contextlib.suppress(trio.BrokenResourceError):
            return bytes(await stream.receive_some(_READ))
        return b""
    fd = stream.socket.fileno()
    received = receive(fd, _READ)  # most requests have arrived by now
    with trio.move_on_at(deadline):
        while received is None:
            await trio.lowlevel.wait_readable(fd)
            received = receive(fd, _READ)
    return received or b""


def stream_head(headers: Headers, config: Config, *, http11: bool) -> bytes:
    """The head of the response with a stream. Its body is chunked if the client speaks HTTP/1.1."""
    if http11:
        headers = (*headers, ("transfer-encoding", "chunked"))
    return _head(200, headers, http11, config, int(time.time()))  # HTTPStatus.OK is hashed in Python


def whole_response(refused: Refused, config: Config, *, http11: bool) -> bytes:
    """A complete response that refuses a request."""
    body = refused.body
    headers = (*refused.headers, ("content-length", str(len(body))))
    return _head(refused.status, headers, http11, config, int(time.time())) + body


@lru_cache(maxsize=64)
def _head(status: int, headers: Headers, http11: bool, config: Config, _second: int) -> bytes:
    """The head of a response (RFC 9112, 4 and 7.1). It is the same for all responses of one second, so it is
    cached.

    The connection closes after the response, so that nothing the client sends meanwhile needs an answer.
    """
    version = "1.1" if http11 else "1.0"
    lines = [f"HTTP/{version} {status} {HTTPStatus(status).phrase}".encode(), b"connection: close"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
    lines += [b"%b: %b" % pair for pair in config.response_headers("h11")]
    return b"\r\n".join([*lines, b"", b""])


class Replayed:
    """A socket whose first bytes were read before. Hypercorn reads them again.

    A write that fails cancels `scope`. Hypercorn stops reading while requests wait behind another. Without
    the cancellation it would keep such a connection for ever: nothing wakes it when the client has left.
    """

    def __init__(self, stream: trio.SocketStream, received: bytes, scope: trio.CancelScope) -> None:
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._stream = stream
        self._received = received
        self._scope = scope

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        if self._received:
            await trio.lowlevel.checkpoint()
            received, self._received = self._received[:max_bytes], self._received[max_bytes:]
            return received
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._scope.cancel()
            raise
