"""Events as bytes (WHATWG HTML 9.2, "Server-sent events") and bytes as HTTP/1.1 chunks (RFC 9112, 7.1)."""

from __future__ import annotations

import re

_LF, _CR = b"\n\r"  # numbers are looked for in a fifth of the time
_LINE_END = re.compile(rb"\r\n|\r|\n")
_NAME = re.compile(rb"^event: (.+)$", re.MULTILINE)
_has_line_end = re.compile("[\r\n\0]").search


def event(data: bytes, *, name: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    """One event, ready to be written.

    `data` is UTF-8. Each of its lines becomes a `data` line, so a parser gives it back with every line
    end as LF. Raises ValueError when `name` or `id` has a CR, LF or NUL: these would start another
    field, or make the parser ignore this one.
    """
    head = ""
    if id is not None:
        head = f"id: {_one_line(id)}\n"
    if name is not None:
        head += f"event: {_one_line(name)}\n"
    if _LF in data or _CR in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    return b"%bdata: %b\n\n" % (head.encode(), data)


def message(data: bytes, id: str, name: str | None) -> bytes:  # noqa: A002
    """`event` for an id and a name that are known to be one line: to check them takes most of its time."""
    if _LF in data or _CR in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    if name is None:
        return b"id: %b\ndata: %b\n\n" % (id.encode(), data)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), name.encode(), data)


def retry(milliseconds: int) -> bytes:
    """The field that sets how long a browser waits before it connects again. It dispatches nothing."""
    return b"retry: %d\n" % milliseconds


def event_name(frames: bytes) -> str:
    """The name of the first event that has one; "" if none has."""
    found = _NAME.search(frames)
    return "" if found is None else found[1].decode()


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. It must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


COMMENT = b":\n\n"
"""Dispatches nothing: proxies and clients see that the stream is open."""

LAST_CHUNK = b"0\r\n\r\n"


def _one_line(text: str) -> str:
    if _has_line_end(text):
        raise ValueError(f"{text!r} has a character that cannot stand in a field of an event")
    return text
