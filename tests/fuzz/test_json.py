"""What Python's json and a browser's JSON.parse both read is delivered byte for byte, and nothing else is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.inputs import PAYLOADS, damaged
from trio_sse.delivery import messages
from trio_sse.delivery.messages import (
    EVERYBODY,
    RESERVED_EVENTS,
    MessageError,
    Notification,
    decode,
    user_id_problem,
)

MAX_BYTES = 1 << 20

_NODE = """
const utf8 = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true});
require('readline').createInterface({input: process.stdin}).on('line', (line) => {
  let reads = true;
  try { JSON.parse(utf8.decode(Buffer.from(line, 'hex'))); } catch { reads = false; }
  process.stdout.write(reads ? '1\\n' : '0\\n');
});
"""


@pytest.fixture(scope="module")
def json_parse() -> Iterator[Callable[[bytes], bool | None]]:
    """Whether JSON.parse reads a payload. None where there is no Node to ask."""
    node = shutil.which("node")
    if node is None:
        yield lambda _payload: None
        return
    with subprocess.Popen([node, "-e", _NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        into, out = process.stdin, process.stdout
        assert into is not None
        assert out is not None

        def ask(payload: bytes) -> bool:
            into.write(payload.hex().encode() + b"\n")
            into.flush()
            return out.readline() == b"1\n"

        yield ask
        into.close()


def _no_constant(name: str) -> Never:
    raise ValueError(name)  # NaN, Infinity: Python alone reads them


def _python_reads(payload: bytes) -> tuple[bool, Any]:
    try:
        return True, json.loads(payload.decode(), parse_int=_Integer, parse_constant=_no_constant)
    except ValueError:
        return False, None


class _Integer(str):
    """An integer as it is written, however long."""

    __slots__ = ()


def _depth(payload: bytes) -> int:
    """The naive way: one byte after the other."""
    depth = deepest = 0
    inside = escaped = False
    for byte in payload.decode("latin-1"):
        if inside:
            inside = escaped or byte != '"'
            escaped = byte == "\\" and not escaped
        elif byte == '"':
            inside = True
        else:
            depth += (byte in "[{") - (byte in "]}")
            deepest = max(deepest, depth)
    return deepest


def _is_user(value: Any) -> bool:
    if isinstance(value, _Integer):
        return len(value) <= messages.MAX_USER_ID
    return isinstance(value, str) and user_id_problem(value) is None


def _deliverable(message: Any) -> bool:
    """By what the README says of a message."""
    if not isinstance(message, dict):
        return False
    event = message.get("event")
    if isinstance(event, str) and event in RESERVED_EVENTS and not isinstance(event, _Integer):
        return False
    user_id = message.get("user_id")
    users = user_id if isinstance(user_id, list) else [user_id]
    if not users or not all(isinstance(user, str) for user in users):
        return False
    return EVERYBODY in users or all(map(_is_user, users))


def _decoded(payload: bytes) -> Notification | None:
    try:
        return decode(payload, MAX_BYTES)
    except MessageError:
        return None


_SURROGATES = st.lists(
    st.sampled_from(
        [
            rb"\ud83d",
            rb"\ude00",
            rb"\uD83D\uDE00",
            rb"\uDBff",
            b"\\\\",
            rb"\"",
            b"u",
            rb"\u0041",
            b"[",
            b"x",
            rb"\ud8",
            b'"',
            rb"\n",
            b"\\",
        ]
    ),
    max_size=8,
).map(b"".join)
_TEXTS = st.tuples(
    st.sampled_from(
        [
            b'{"user_id":1,"message":"%b"}',
            b'{"user_id":"%b"}',
            b'{"user_id":["a","%b"]}',
            b'{"user_id":1,"%b":1}',
            b'{"user_id":1,"event":"%b"}',
            b'{"user_id":"%b","user_id":1}',
            b'{"user_id":1,"user_id":"%b"}',
            b'{"user_id":1,"created_at":"%b"}',
            b' {"user_id":1,"message":[{"a":"%b"}]}\n',
        ]
    ),
    _SURROGATES,
).map(lambda parts: parts[0] % parts[1])


@pytest.fixture(autouse=True)
def _deep_enough() -> Iterator[None]:
    """So that the parser compared with reads whatever depth the strategies make."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 2 * messages.MAX_DEPTH)
    yield
    sys.setrecursionlimit(limit)


@given(PAYLOADS | _TEXTS | damaged(_TEXTS))
def test_what_both_read_is_delivered_byte_for_byte(
    json_parse: Callable[[bytes], bool | None], payload: bytes
) -> None:
    notification = _decoded(payload)
    if _depth(payload) > messages.MAX_DEPTH:
        assert notification is None
        return
    reads, message = _python_reads(payload)
    assert json_parse(payload) in (reads, None)
    assert (notification is not None) == (reads and _deliverable(message))
    if notification is not None and "created_at" in message:
        assert notification.data == payload
    elif notification is not None:
        head, comma, added = notification.data.rpartition(b',"created_at":')
        assert comma
        assert head == payload[: payload.rindex(b"}")]
        assert json.loads(added[:-1])
