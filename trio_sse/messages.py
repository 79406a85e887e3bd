"""What a back end published: Redis payload → Notification, or MessageError."""

from __future__ import annotations

import time
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from trio_sse.positions import StreamId

MAX_USER_ID = 128
"""Characters a user id may have, in a message and in a request alike."""

_MAX_INTEGER = 10**MAX_USER_ID

EVERYBODY = "*"

# Names the service says itself, or that a browser dispatches on every EventSource.
RESERVED_EVENTS = frozenset(
    {"connected", "heartbeat", "gap", "draining", "overloaded", "auth_expired", "open", "error"}
)


class MessageError(ValueError):
    """A payload that cannot be delivered. The text is the reason, fit for a log line."""


class Notification(NamedTuple):
    """A message to deliver: to whom (None: everybody), under which event name, and its JSON."""

    users: tuple[str, ...] | None
    event: str | None
    data: bytes


class _Envelope(msgspec.Struct, gc=False):
    # Only what routing needs is decoded. The rest is the publisher's and passes through as it is.
    user_id: int | str | list[int | str]
    event: msgspec.Raw = msgspec.Raw(b"")
    created_at: msgspec.Raw = msgspec.Raw(b"")


_envelope = msgspec.json.Decoder(_Envelope)


def decode(payload: bytes, max_bytes: int, stream: StreamId | None = None) -> Notification:
    """Read a payload from Redis. `created_at` (RFC 3339, UTC) is added when it is missing: now, or for an
    entry of a stream the time that its id `stream` tells, the same each time it is read.

    Raises MessageError when the payload is over `max_bytes`, not UTF-8, not JSON (RFC 8259), not an
    object, or its `user_id` or `event` cannot be used.
    """
    if len(payload) > max_bytes:
        raise MessageError(f"{len(payload)} bytes, over SSE_MAX_MESSAGE_BYTES={max_bytes}")
    try:
        payload.decode()
        envelope = _envelope.decode(payload)
    except UnicodeDecodeError as error:
        raise MessageError(f"not UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError as error:
        raise MessageError(f'{error} (user_id: an integer, a string, a list of them, or "*")') from None
    except msgspec.DecodeError as error:
        raise MessageError(f"not JSON: {error}") from None
    except RecursionError:
        raise MessageError("not JSON: nested too deeply") from None
    event = _event_name(envelope.event) if envelope.event else None
    if not envelope.created_at:
        end = payload.rindex(b"}")
        payload = b'%b,"created_at":"%b"}' % (payload[:end], _created_at(stream).encode())
    return Notification(_users(envelope.user_id), event, payload)


def user_id_problem(user_id: str) -> str | None:
    """Why `user_id` cannot be anybody's, or None. One rule for messages and for requests."""
    if not user_id:
        return "user_id is empty"
    if len(user_id) > MAX_USER_ID:
        return f"user_id has {len(user_id)} characters, more than {MAX_USER_ID}"
    if not user_id.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in user_id):
        return "user_id has control characters"
    return None


def _created_at(stream: StreamId | None) -> str:
    # An id below that is no time: somebody made it up.
    return utc_now() if stream is None or stream[0] < _FIRST_MILLISECOND else _utc(stream[0])


def utc_now() -> str:
    """The time as RFC 3339 with milliseconds, such as 2026-01-01T12:00:00.000Z."""
    return _utc(time.time_ns() // 1_000_000)


def _utc(milliseconds: int) -> str:
    milliseconds = min(milliseconds, _LAST_MILLISECOND)
    return f"{_utc_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


_FIRST_MILLISECOND = 1_000_000_000_000  # in the year 2001
_LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999


@lru_cache(maxsize=2)  # thousands may ask within a second
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _users(user_id: int | str | list[int | str]) -> tuple[str, ...] | None:
    if isinstance(user_id, int):
        if not -_MAX_INTEGER // 10 < user_id < _MAX_INTEGER:
            raise MessageError(f"user_id has more than {MAX_USER_ID} characters")
        return (str(user_id),)
    if isinstance(user_id, str):
        users: tuple[str, ...] = (user_id,)
    elif user_id:
        users = tuple(dict.fromkeys(map(str, user_id)))  # 1 and "1" are one user, and get one copy
    else:
        raise MessageError("user_id is an empty list")
    if EVERYBODY in users:
        return None
    for user in users:
        if problem := user_id_problem(user):
            raise MessageError(problem)
    return users


def _event_name(raw: msgspec.Raw) -> str | None:
    """The event name a message asks for. A value that is no name is the publisher's own field."""
    try:
        name = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # a number that is JSON, but larger than any float
        return None
    if not isinstance(name, str) or name in ("", "message"):
        return None
    if "\r" in name or "\n" in name or "\0" in name:
        return None
    if name in RESERVED_EVENTS:
        raise MessageError(f"event {name!r} is the service's own; use another name")
    return name
