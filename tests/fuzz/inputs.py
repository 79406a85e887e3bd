"""Hostile payloads, requests and event ids, as strategies for Hypothesis."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from tests.support.hostile import REQUESTS, Attack

# Text that breaks out of a field of an event, of a line of the log, or of UTF-8.
_BREAKS = st.sampled_from(
    ["\r", "\n", "\0", "a\r\nid: 1", "a\n\ndata: x\n\n", "a\rretry: 1", "\x1b[2J", "\ud800", "\udfff\ud800"]
)
_TEXT = (
    _BREAKS
    | st.text(max_size=30)
    | st.sampled_from(
        ["gap", "connected", "message", "open", "*", "", " ", "%s", "\ufeff", "\u2028", "\x85", "x" * 200]
    )
)

_NUMBERS = st.sampled_from(
    [
        b"1e999",
        b"-1e999",
        b"1e-999",
        b"9" * 19,
        b"9" * 20,
        b"9" * 400,
        b"-" + b"9" * 5000,
        b"0",
        b"-0",
        b"1.5",
        b"0.1" + b"0" * 400,
        b"01",
        b"+1",
        b"1.",
        b".1",
        b"1e",
        b"0x1",
        b"NaN",
        b"Infinity",
        b"-Infinity",
    ]
)


@st.composite
def _string(draw: st.DrawFn) -> bytes:
    """A JSON string, with what it holds escaped or as it is, surrogates included."""
    text = draw(_TEXT)
    ascii_only = draw(st.booleans())
    return json.dumps(text, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def _deep(draw: st.DrawFn) -> bytes:
    """Nested more deeply than any parser likes, now and then without an end."""
    depth = draw(st.sampled_from([2, 100, 900, 1000, 1100, 10_000, 30_000]))
    begin, end = draw(st.sampled_from([(b"[", b"]"), (b'{"a":', b"}")]))
    return begin * depth + b"1" + end * (depth if draw(st.booleans()) else 0)


_FIELD_NAMES = st.sampled_from(
    [b'"event"', b'"event"', b'"user_id"', b'"created_at"', b'"message"', b'"id"', b'"retry"', b'"data"']
)
_NAMES = (
    _FIELD_NAMES
    | st.sampled_from([b'"user_id"', b'"user\\u005fid"', b'"USER_ID"', b'""', b"user_id"])
    | _string()
)


def _objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    member = st.tuples(_NAMES, values).map(b":".join)
    return st.lists(member, max_size=6).map(lambda members: b"{" + b",".join(members) + b"}")


_VALUES = st.recursive(
    st.sampled_from([b"null", b"true", b"false", b"", b'"hostile"', b"7"]) | _string() | _NUMBERS | _deep(),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda all_: b"[" + b",".join(all_) + b"]") | _objects(inner)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes changed, left out or put in."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


_USEFUL = st.tuples(
    st.sampled_from([b'"hostile"', b'["hostile","other"]', b"7", b'"*"', b'[1,"*"]']), _objects(_VALUES)
).map(lambda parts: b'{"user_id":' + parts[0] + b"," + parts[1][1:])

# Right but for one field, which is what a parser trusts most.
_ONE_FIELD = st.tuples(_FIELD_NAMES, _string() | _NUMBERS | _deep()).map(
    lambda field: b'{"user_id":"hostile",' + field[0] + b":" + field[1] + b"}"
)

PAYLOADS = (
    st.binary(max_size=200)
    | _VALUES
    | _objects(_VALUES)
    | _ONE_FIELD
    | _USEFUL
    | damaged(_objects(_VALUES) | _ONE_FIELD | _USEFUL)
)


class Published(NamedTuple):
    """Something published: to the channel, or as an entry of the stream with these fields and this id."""

    fields: tuple[tuple[bytes, bytes], ...]
    id: str | None
    """None: it goes to the channel, and the fields' values do."""


_ENTRY_IDS = st.just("*") | st.builds("{}-{}".format, st.integers(0, 2**62), st.integers(0, 2**64 - 1))
_FIELDS = st.lists(
    st.tuples(st.just(b"payload") | st.sampled_from([b"Payload", b"", b"\xff"]), PAYLOADS),
    min_size=1,
    max_size=3,
).map(tuple)

PUBLISHED = st.builds(
    Published, st.tuples(st.tuples(st.just(b"payload"), PAYLOADS)), st.just("*") | st.none()
) | st.builds(Published, _FIELDS, _ENTRY_IDS)

# Requests

_METHODS = st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b"get", b"G\0T", b""])
_STREAMS = st.sampled_from([b"/sse", b"/sse?user_id=hostile", b"/sse?user_id=%ff&last_event_id=1-1"])
_TARGETS = (
    _STREAMS
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            b"/sse?" + b"a=1&" * 200,
            b"/sse#x",
            b"/sse/",
            b"//sse",
            b"/%73se",
            b"/healthz",
            b"/readyz",
            b"/",
            b"*",
            b"",
            b"?",
            b"?user_id=1",
            b"http://x/sse",
            b"http://[/sse",
            b"//[",
            b"sse",
            b"/\xff",
            b"/sse?\xff",
            b"/..//sse",
            b"/sse?user_id=%00",
            b"/sse?user_id=" + b"x" * 9000,
        ]
    )
)
_VERSIONS = st.sampled_from(
    [b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2", b" HTTP/9.9", b" ICAP/1.0", b"", b"  HTTP/1.1"]
)
_LAWFUL = st.sampled_from(
    [
        b"Host: x",
        b"host:y",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Origin: https://x.example",
        b"Last-Event-ID: 1-1",
        b"Accept: text/event-stream",
        b"X: " + b"x" * 20_000,
    ]
)
_UNLAWFUL = st.tuples(st.binary(max_size=8), st.binary(max_size=20)).map(b": ".join) | st.sampled_from(
    [
        b"Host:",
        b"Host: \xff",
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: " + b"9" * 30,
        b"Transfer-Encoding: gzip, chunked",
        b"Cookie: a=b; c=\xff",
        b" folded: x",
        b"no colon",
        b": no name",
        b"A\0: b",
        b"A: \0",
        b"A : b",
    ]
)
_BODIES = st.sampled_from(
    [
        b"",
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\n",
        b"ffffffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"5;" + b"x" * 2000,
        b"\x81\x85garbage",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
) | st.binary(max_size=40)


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """The head of a request, wrong in any place, and whatever follows."""
    line_end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    line = draw(_METHODS) + b" " + draw(_TARGETS) + draw(_VERSIONS)
    head = line_end.join([line, *draw(st.lists(_LAWFUL | _UNLAWFUL, max_size=5)), b"", b""])
    return head + draw(_BODIES)


@st.composite
def lawful_request(draw: st.DrawFn) -> bytes:
    """A request for a stream in which each part is right by itself."""
    line = b"GET " + draw(_STREAMS) + draw(st.sampled_from([b" HTTP/1.1", b" HTTP/1.0"]))
    return b"\r\n".join([line, b"Host: x", *draw(st.lists(_LAWFUL, max_size=3)), b"", b""]) + draw(_BODIES)


@st.composite
def _pieces(draw: st.DrawFn) -> tuple[bytes, ...]:
    """Requests one behind another, damaged or not, in pieces that begin and end anywhere."""
    listed = st.sampled_from(REQUESTS).map(b"".join)
    one = request() | lawful_request() | damaged(lawful_request()) | damaged(listed)
    data = b"".join(draw(st.lists(one, min_size=1, max_size=4)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return tuple(data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True))


ATTACKS = st.builds(
    Attack, st.sampled_from(REQUESTS) | _pieces(), st.sampled_from(["close", "reset", "half", "read"])
)

# Topics

_SEGMENTS = (
    st.sampled_from(["a", "b", "*", "**", "", "a*", "***", "*" * 40, "\0", "é", "e\u0301", " "]) | _TEXT
)

ENTRIES = st.lists(_SEGMENTS, min_size=1, max_size=70).map("/".join) | _TEXT
"""Names and patterns of topics, or nearly."""

_PARAMETERS = st.sampled_from(
    [
        "topic",
        "topic",
        "topic[]",
        "topic[0]",
        "topics",
        "Topic",
        "topic[a]",
        "user_id",
        "access_token",
        "",
        "x",
    ]
)


def _percent(text: str) -> bytes:
    return quote(text.encode("utf-8", "surrogatepass"), safe="/*").encode()


QUERIES = st.lists(
    st.tuples(
        _PARAMETERS.map(_percent), st.sampled_from([b"=", b"=", b"=", b"", b"=="]), ENTRIES.map(_percent)
    ).map(b"".join),
    max_size=8,
).map(b"&".join) | st.binary(max_size=80).map(lambda junk: b"topic=" + junk)
"""Queries of requests for streams, right and wrong."""

# Event ids

_SHAPE = re.compile(r"(?:(\d+)-(\d+))?/?(?:([0-9a-f]{12})\.(\d+))?")
_STEPS = st.integers(-5, 5) | st.sampled_from([-(10**6), 10**6, 10**13, 2**63, 2**64, 10**20])


@dataclass(frozen=True)
class NearId:
    """An id that differs a little, or much, from one that the service gave."""

    milliseconds: int
    number: int
    sequence: int
    process: str | None
    parts: Literal["stream", "process", "both", "as it is"]

    def of(self, given: str) -> str:
        match = _SHAPE.fullmatch(given)
        assert match, given
        milliseconds, number, process, sequence = match.groups("0")
        stream = f"{int(milliseconds) + self.milliseconds}-{int(number) + self.number}"
        own = f"{self.process or process.zfill(12)}.{int(sequence) + self.sequence}"
        return {"stream": stream, "process": own, "both": f"{stream}/{own}", "as it is": given}[self.parts]


_NEAR = st.builds(
    NearId,
    _STEPS,
    _STEPS,
    _STEPS,
    st.none() | st.text("0123456789abcdef", min_size=12, max_size=12),
    st.sampled_from(["stream", "process", "both", "as it is"]),
)
_FAR = st.sampled_from(
    [
        "0-0",
        "0-1",
        f"{2**64 - 1}-{2**64 - 1}",
        f"{2**64}-0",
        "9" * 20 + "-" + "9" * 20,
        "9" * 21 + "-0",
        "9" * 5000 + "-0",
        "1-1/",
        "/1-1",
        "1-1/1-1",
        "$",
        "+",
        "-",
        "*",
        ">",
        "1",
        "١-١",
        "１-０",
        "-1--1",
        "+1-0",
        "1_0-0",
        " 1-1",
        "1-1\n",
        "1-1\0",
        "9f3c12ab77de.",
        ".1",
        "9f3c12ab77de." + "9" * 18,
        "9f3c12ab77de." + "9" * 19,
        "9F3C12AB77DE.1",
        "0-0/000000000000.0",
    ]
)


class LastEventId(NamedTuple):
    """What a client says it has, and where it says so."""

    id: NearId | str | bytes
    by: Literal["header", "query"]


LAST_EVENT_IDS = st.builds(
    LastEventId,
    _NEAR
    | _FAR
    | st.text(max_size=120)
    | st.text("0123456789abcdef-./", max_size=110)
    | st.binary(max_size=120),
    st.sampled_from(["header", "query"]),
)
