"""What does a request for a stream ask for, and how is it answered? Pure: every door asks it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from trio_sse.delivery.messages import EVERYBODY, user_id_problem
from trio_sse.settings import Settings
from trio_sse.settings.origins import is_allowed_host, is_listed, is_same_host

DEFAULT_USER = "1"
MAX_PARAMETERS = 100

# What nearly every client asks for; it spares the general parser.
_PLAIN_QUERY = re.compile(rb"user_id=([A-Za-z0-9._-]+)")

Headers = tuple[tuple[str, str], ...]

GUARDS: Headers = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),  # pages of other origins read by CORS, or not at all
)
"""Header fields of every answer, whatever it is."""

_STREAM_HEADERS: Headers = (
    ("content-type", "text/event-stream"),
    # Proxies that compress (RFC 9110, 7.7) would hold the stream back until they have a block full.
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),  # nginx would hold the stream back otherwise
    *GUARDS,
)


class Asked(NamedTuple):
    """A well-formed request for a stream."""

    user_id: str | None
    """Whose. None: not said."""
    last_event_id: str | None
    """The position it resumes from, if any."""
    token: str | None
    """`access_token` of the query."""
    fields: Mapping[bytes, bytes]
    """Header fields, names in lower case, lines of one name joined."""
    cors: Headers
    unfilled: str | None = None
    """What `user_id` seems to be instead of an id: "empty", such as "undefined", or "a template"."""


class Accepted(NamedTuple):
    """The request gets a stream."""

    user_id: str
    last_event_id: str | None
    headers: Headers
    address: str = ""
    """What limits by address count it by."""
    seconds: float | None = None
    """How long the token that it came with is valid from now on."""
    last_words: bytes = b""
    """All that the stream says, if it ends at once."""


class Refused(NamedTuple):
    """The request gets a problem document (RFC 9457) instead of a stream."""

    status: int
    detail: str
    headers: Headers

    @property
    def body(self) -> bytes:
        return problem(self.status, self.detail)


def handshake(query: bytes, headers: Iterable[tuple[bytes, bytes]], settings: Settings) -> Asked | Refused:
    """Read `GET /sse?<query>`. Header names may be in any case. Never raises, whatever the bytes."""
    fields = _fields(headers)
    cors = cors_headers(fields.get(b"origin", b"").decode("latin-1"), settings)
    if misdirected := wrong_host(fields.get(b"host", b"").decode("latin-1"), settings):
        return refused(HTTPStatus.MISDIRECTED_REQUEST, misdirected, cors)
    last_event_id = fields.get(b"last-event-id", b"").decode("utf-8", "replace") or None
    token: str | None = None
    if plain := _PLAIN_QUERY.fullmatch(query):
        user_id: str | None = plain[1].decode()
    else:
        try:
            given = _parameters(query)
        except _QueryError as error:
            return refused(400, str(error), cors)
        user_id = given.get("user_id")
        token = given.get("access_token") or None
        # The header is the browser's own and newer: on reconnecting it repeats the query of the first time.
        last_event_id = last_event_id or given.get("last_event_id")
    if user_id == EVERYBODY:
        return refused(400, 'user_id "*" addresses everybody; it is nobody\'s own', cors)
    if user_id and (problem_text := user_id_problem(user_id)):
        return refused(400, problem_text, cors)
    unfilled = None if user_id is None else _unfilled(user_id)
    return Asked(user_id or None, last_event_id, token, fields, cors, unfilled)


class _QueryError(ValueError):
    """A query that cannot be meant so. The text is the reason."""


_OURS = {"userid": "user_id", "lasteventid": "last_event_id", "accesstoken": "access_token"}
_LONGEST_NAME = 64
_ORNAMENT = re.compile(r"(?<=.)\[[^\]]*\]|[^a-z0-9]")
_RESUMES = re.compile("last[-_]?event[-_]?id", re.IGNORECASE)


def _parameters(query: bytes) -> dict[str, str]:
    """The parameters that concern us, by our own names. Others are left alone.

    `last_event_id` may be written as clients write it that send no header (lastEventId, lastEventID,
    Last-Event-ID). They append theirs to what the page gave them, so the last that says something counts.
    Whatever else only looks like a name of ours, or is there twice with different values, is refused: the
    stream would be another user's. Raises _QueryError.
    """
    found: dict[str, str] = {}
    try:
        arguments = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        detail = f"the query is not a URL-encoded UTF-8 form of up to {MAX_PARAMETERS} parameters"
        raise _QueryError(detail) from None
    for name, value in arguments:
        if len(name) > _LONGEST_NAME:
            continue
        # `&amp;` is what becomes of `&` in an address that was escaped for HTML.
        ours = _OURS.get(_ORNAMENT.sub("", name.lower().removeprefix("amp;")))
        if ours is None:
            continue
        if ours == "last_event_id" and _RESUMES.fullmatch(name):
            if value:
                found[ours] = value
        elif name != ours:
            raise _QueryError(f"the query has a parameter that is nearly {ours}; its name is {ours}, exactly")
        elif found.setdefault(ours, value) != value:
            raise _QueryError(f"the query has {ours} twice, with different values")
    return found


_UNFILLED = re.compile(
    r"(undefined|null|none|nil|nan|\(null\)|\[object object\])|[$#%]?\{.*\}|<.*>|\[[a-z_ ]+\]|[:$]\w+|%[sd]",
    re.IGNORECASE,
)


def _unfilled(user_id: str) -> str | None:
    """What the page wrote instead of an id, in words of our own. They all are ids, and go on being taken."""
    if not user_id:
        return "empty"
    match = _UNFILLED.fullmatch(user_id)
    return match and (match[1] or "a template").lower()


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Lines of one name are joined as RFC 9110, 5.3 and RFC 6265, 5.4 have it."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in fields:
            value = fields[name] + (b"; " if name == b"cookie" else b", ") + value
        fields[name] = value
    return fields


def bearer(authorization: str) -> str | None:
    """The token in the value of an Authorization field; None when it holds none (RFC 6750, 2.1)."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def accepted(asked: Asked, user_id: str) -> Accepted:
    return Accepted(user_id, asked.last_event_id, _STREAM_HEADERS + asked.cors)


def refused(status: int, detail: str, cors: Headers, *more: tuple[str, str]) -> Refused:
    """A refusal that pages of other origins can read, with `more` header fields."""
    headers: Headers = (
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        *GUARDS,
        *cors,
    )
    if more:
        exposed = ", ".join(name for name, _ in more)
        headers = (*headers, *more, ("access-control-expose-headers", exposed))
    return Refused(status, detail, headers)


def cors_headers(origin: str, settings: Settings) -> Headers:
    """What a page of `origin` ("" without one) is allowed to read (WHATWG Fetch, "CORS protocol").

    Credentials are allowed with a list of origins only: with `*` a browser would refuse them. Never for
    `null`, which is what every sandboxed frame and every file calls itself.
    """
    if settings.cors_origins == ("*",):
        return (("access-control-allow-origin", "*"),)
    if origin and is_listed(origin, settings.cors_origins):
        allowed: Headers = (("access-control-allow-origin", origin),)
        if origin != "null":
            allowed += (("access-control-allow-credentials", "true"),)
        return (*allowed, ("vary", "Origin"))
    return (("vary", "Origin"),)


def preflight_headers(settings: Settings) -> Headers:
    """What a page may send, beside `cors_headers`."""
    names = ", ".join((*_USUAL_HEADERS, *settings.cors_headers))
    return (
        ("access-control-allow-methods", "GET, HEAD, POST, OPTIONS"),
        ("access-control-allow-headers", names),
        ("access-control-max-age", "86400"),
    )


_USUAL_HEADERS = (
    "Accept", "Authorization", "Cache-Control", "Content-Type", "Idempotency-Key", "Last-Event-ID",
)  # fmt: skip


def is_foreign(fields: Mapping[bytes, bytes], settings: Settings) -> bool:
    """Whether the request is that of a page of another site that is not listed, so that a cookie with it is
    not of the user's will. Browsers say so; other clients say nothing (W3C Fetch Metadata).
    """
    origin = fields.get(b"origin", b"").decode("latin-1")
    site = fields.get(b"sec-fetch-site", b"")
    if not origin:
        return site == b"cross-site"
    if site == b"same-origin" or is_same_host(origin, fields.get(b"host", b"").decode("latin-1")):
        return False
    return origin == "null" or not is_listed(origin, settings.cors_origins)


def wrong_host(field: str, settings: Settings) -> str | None:
    """What is wrong with the `Host` of a request."""
    if is_allowed_host(field, settings.allowed_hosts):
        return None
    return "this is not a name of the service (SSE_ALLOWED_HOSTS)"


def problem(status: int, detail: str, more: Mapping[str, object] = MappingProxyType({})) -> bytes:
    """A problem document (RFC 9457): application/problem+json. `more`: members beyond the usual."""
    title = HTTPStatus(status).phrase
    return msgspec.json.encode(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    )
