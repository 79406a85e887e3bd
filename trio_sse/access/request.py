"""A request for a stream: its query and its header fields, read for every way in. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

from trio_sse.access.cors import Headers, cors_headers, is_open, wrong_host
from trio_sse.access.problem import Refused, refused
from trio_sse.delivery.messages import EVERYBODY, MAX_USER_ID, topic_problem, user_id_problem
from trio_sse.delivery.resume import Start
from trio_sse.settings import Settings

DEFAULT_USER = "1"
MAX_PARAMETERS = 100
"""Parameters that a query may have beside topics."""

Fields = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]
"""Header fields as `joined` returns them, or as lines, with names in any case."""

# What nearly every client sends. It does not need the general parser.
_PLAIN_QUERY = re.compile(rb"user_id=([A-Za-z0-9._-]+)((?:&topic=[A-Za-z0-9._/%-]+)*)")


class StreamRequest(NamedTuple):
    """A well-formed request for a stream."""

    user_id: str | None
    """The user it names. None: it names none."""
    start: Start
    """Where it is to begin."""
    token: str | None
    """`access_token` of the query."""
    fields: Mapping[bytes, bytes]
    """Header fields, names in lower case, lines of one name joined."""
    cors: Headers
    unfilled: str | None = None
    """What `user_id` seems to be instead of an id: "empty", such as "undefined", or "a template"."""
    topics: tuple[str, ...] = ()
    """The topics it names, each once, in order."""


def read_request(query: bytes, headers: Fields, settings: Settings) -> StreamRequest | Refused:
    """Read the query and the header fields. Never raises."""
    fields = headers if isinstance(headers, Mapping) else joined(headers)
    origin = "" if is_open(settings) else fields.get(b"origin", b"").decode("latin-1")
    cors = cors_headers(origin, settings)
    host = "" if "*" in settings.allowed_hosts else fields.get(b"host", b"").decode("latin-1")
    if misdirected := wrong_host(host, settings):
        return refused(HTTPStatus.MISDIRECTED_REQUEST, misdirected, cors)
    start = Start(fields.get(b"last-event-id", b"").decode("utf-8", "replace") or None)
    token: str | None = None
    plain = _PLAIN_QUERY.fullmatch(query)
    topics = _plain_topics(plain[2].decode(), settings.max_topics) if plain else None
    if plain and topics is not None:
        user_id: str | None = plain[1].decode()
    else:
        try:
            given, topics = _parameters(query, settings.max_topics)
            # The header is newer: a browser that reconnects repeats the query of its first request.
            start = start if start.last_event_id else _start(given)
        except _QueryError as error:
            return refused(400, str(error), cors)
        user_id = given.get("user_id")
        token = given.get("access_token") or None
    if user_id == EVERYBODY:
        return refused(400, 'user_id "*" means everybody; a stream is for one user', cors)
    if user_id and (problem_text := user_id_problem(user_id)):
        return refused(400, problem_text, cors)
    unfilled = None if user_id is None else _unfilled(user_id)
    return StreamRequest(user_id or None, start, token, fields, cors, unfilled, topics)


def _plain_topics(parameters: str, most: int) -> tuple[str, ...] | None:
    """The topics in `&topic=orders%2F17&topic=news`. None if the general parser is to judge them."""
    if not parameters:
        return ()
    parameters = parameters.replace("%2F", "/")
    topics = tuple(dict.fromkeys(parameters.split("&topic=")[1:]))
    if "%" in parameters or len(topics) > most or max(map(len, topics)) > MAX_USER_ID:
        return None
    return topics


class _QueryError(ValueError):
    """A query that is refused. The text is the reason."""


_OURS = {
    "userid": "user_id",
    "topic": "topic",
    "topics": "topic",
    "lasteventid": "last_event_id",
    "rewind": "rewind",
    "since": "since",
    "snapshot": "snapshot",
    "accesstoken": "access_token",
}
_LONGEST_NAME = 64
_ORNAMENT = re.compile(r"(?<=.)\[[^\]]*\]|[^a-z0-9]")
_RESUMES = re.compile("last[-_]?event[-_]?id", re.IGNORECASE)
_TOPIC = re.compile(r"topic(\[[0-9]*\])?")


def _parameters(query: bytes, max_topics: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """The parameters that the service knows, by their exact names, and the topics. Others are ignored.

    A topic may be written as lists are, by PHP, axios and others: topic[], topic[0].

    Clients that send no header write `last_event_id` in other ways too (lastEventId, lastEventID,
    Last-Event-ID). They append it to the page's query, so the last one with a value counts. Any other name
    that is nearly one of these is refused, and so is a parameter that is there twice with different values:
    the stream would be another user's. Raises _QueryError.
    """
    found: dict[str, str] = {}
    topics: dict[str, None] = {}
    most = MAX_PARAMETERS + max_topics
    try:
        arguments = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=most
        )
    except ValueError:
        detail = (
            f"the query is not a URL-encoded UTF-8 form of up to {MAX_PARAMETERS} parameters, and "
            f"{max_topics} topics (SSE_MAX_TOPICS)"
        )
        raise _QueryError(detail) from None
    for name, value in arguments:
        if len(name) > _LONGEST_NAME:
            continue
        # Escaping for HTML turns `&` in an address into `&amp;`.
        ours = _OURS.get(_ORNAMENT.sub("", name.lower().removeprefix("amp;")))
        if ours is None:
            continue
        if ours == "last_event_id" and _RESUMES.fullmatch(name):
            if value:
                found[ours] = value
        elif ours == "topic" and _TOPIC.fullmatch(name):
            topics[value] = None
        elif name != ours:
            raise _QueryError(f"the query has a parameter that is nearly {ours}; its name is {ours}, exactly")
        elif found.setdefault(ours, value) != value:
            raise _QueryError(f"the query has {ours} twice, with different values")
    for topic in topics:
        if "*" in topic:
            raise _QueryError("a topic has a *; a stream follows topics by their names")
        if problem := topic_problem(topic):
            raise _QueryError(problem)
    if len(topics) > max_topics:
        raise _QueryError(f"the query has more than {max_topics} topics (SSE_MAX_TOPICS)")
    return found, tuple(topics)


_MOST = 10_000_000
_UNIX = 1e9  # a lower number cannot be a time of our days: it is an age
_MOST_UNIX = 253_402_300_800  # the year 10,000, which RFC 3339 does not know: these are milliseconds


def _start(given: Mapping[str, str]) -> Start:
    """Where a client begins by its query. `since` is a time (RFC 3339, or seconds since 1970) or so many
    seconds ago. Raises _QueryError."""
    rewind, since = given.get("rewind", ""), given.get("since", "")
    if rewind and since:
        raise _QueryError("the query has rewind and since: one of them says where the stream begins")
    if rewind and not (rewind.isascii() and rewind.isdigit() and int(rewind[:20]) <= _MOST):
        raise _QueryError(f"rewind is not a number of messages, from 0 to {_MOST}")
    snapshot = _SNAPSHOT.get(given.get("snapshot", "false").lower())
    if snapshot is None:
        raise _QueryError("snapshot is neither true nor false")
    seconds = _seconds_ago(since) if since else None
    return Start(given.get("last_event_id"), int(rewind or 0), seconds, snapshot)


_SNAPSHOT = {"true": True, "1": True, "": True, "false": False, "0": False}


def _seconds_ago(since: str) -> float:
    now = time.time()
    if _NUMBER.fullmatch(since):
        number = float(since)
        if number >= _MOST_UNIX:
            raise _QueryError("since is a time in milliseconds; it takes seconds since 1970")
        return number if number < _UNIX else max(0.0, now - number)
    try:
        then = datetime.fromisoformat(since.upper())  # RFC 3339, 5.6: T and Z may be small letters
    except ValueError:
        then = datetime.min
    if then.tzinfo is None:
        detail = (
            "since is neither a time (RFC 3339 such as 2026-01-01T12:00:00Z, or seconds since 1970) nor an "
            "age in seconds"
        )
        if _BLANK_FOR_PLUS.search(since):
            detail += "; in an address, the + of a time zone is written %2B"
        raise _QueryError(detail)
    return max(0.0, now - then.timestamp())


_BLANK_FOR_PLUS = re.compile(r" [0-9]{2}:?[0-9]{2}$")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


_UNFILLED = re.compile(
    r"(undefined|null|none|nil|nan|\(null\)|\[object object\])|[$#%]?\{.*\}|<.*>|\[[a-z_ ]+\]|[:$]\w+|%[sd]",
    re.IGNORECASE,
)


def _unfilled(user_id: str) -> str | None:
    """What the page seems to have written instead of an id, in fixed words. It is still accepted as an id."""
    if not user_id:
        return "empty"
    match = _UNFILLED.fullmatch(user_id)
    return match and (match[1] or "a template").lower()


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header fields by lower-case name, with `join` for lines of one name."""
    lines = list(headers)
    fields = dict(lines)
    if len(fields) == len(lines) and b"".join(fields).islower():  # nearly every request
        return fields
    fields = {}
    for name, value in lines:
        name = name.lower()
        fields[name] = join(name, fields[name], value) if name in fields else value
    return fields


def join(name: bytes, value: bytes, further: bytes) -> bytes:
    """The value of two lines of one name (RFC 9110, 5.3, and RFC 6265, 5.4)."""
    return value + (b"; " if name == b"cookie" else b", ") + further


def bearer(authorization: str) -> str | None:
    """The token in the value of an Authorization field; None when it holds none (RFC 6750, 2.1)."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
