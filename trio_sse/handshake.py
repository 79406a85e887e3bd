"""May this request have a stream, whose, and with which response headers? Pure: every door asks it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from trio_sse.messages import EVERYBODY, user_id_problem
from trio_sse.settings import Settings

DEFAULT_USER = "1"

# What nearly every client asks for; it spares the general parser.
_PLAIN_QUERY = re.compile(rb"user_id=([A-Za-z0-9._-]+)")

Headers = tuple[tuple[str, str], ...]

_STREAM_HEADERS: Headers = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx would hold the stream back otherwise
)


class Accepted(NamedTuple):
    """The request gets a stream of `user_id`. `last_event_id` is the position it resumes from, if any."""

    user_id: str
    last_event_id: str | None
    headers: Headers


class Refused(NamedTuple):
    """The request gets a problem document (RFC 9457) instead of a stream."""

    status: int
    detail: str
    headers: Headers

    @property
    def body(self) -> bytes:
        return problem(self.status, self.detail)


def handshake(query: bytes, headers: Iterable[tuple[bytes, bytes]], settings: Settings) -> Accepted | Refused:
    """Decide on `GET /sse?<query>`. Header names may be in any case. Never raises, whatever the bytes."""
    fields = {name.lower(): value for name, value in headers}
    cors = cors_headers(fields.get(b"origin", b"").decode("latin-1"), settings)
    last_event_id = fields.get(b"last-event-id", b"").decode("utf-8", "replace") or None
    if plain := _PLAIN_QUERY.fullmatch(query):
        user_id = plain[1].decode()
    else:
        try:
            arguments = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
            )
        except ValueError:
            return _refused("the query is not a URL-encoded UTF-8 form", cors)
        first = dict(reversed(arguments))
        user_id = first.get("user_id") or DEFAULT_USER
        # The header is the browser's own and newer: on reconnecting it repeats the query of the first time.
        last_event_id = last_event_id or first.get("last_event_id") or None
    if user_id == EVERYBODY:
        return _refused('user_id "*" addresses everybody; it is nobody\'s own', cors)
    if problem_text := user_id_problem(user_id):
        return _refused(problem_text, cors)
    return Accepted(user_id, last_event_id, _STREAM_HEADERS + cors)


def cors_headers(origin: str, settings: Settings) -> Headers:
    """What a page of `origin` (b"" without one) is allowed to read (WHATWG Fetch, "CORS protocol").

    Credentials are allowed with a list of origins only: with `*` a browser would refuse them.
    """
    if settings.cors_origins == ("*",):
        return (("access-control-allow-origin", "*"),)
    if origin and origin in settings.cors_origins:
        return (
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        )
    return (("vary", "Origin"),)


PREFLIGHT_HEADERS: Headers = (
    ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
    ("access-control-allow-headers", "Accept, Cache-Control, Content-Type, Last-Event-ID"),
    ("access-control-max-age", "86400"),
)


def problem(status: int, detail: str) -> bytes:
    """A problem document (RFC 9457): application/problem+json."""
    return msgspec.json.encode(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    )


def _refused(detail: str, cors: Headers) -> Refused:
    headers = (("content-type", "application/problem+json"), ("cache-control", "no-store"), *cors)
    return Refused(HTTPStatus.BAD_REQUEST, detail, headers)
