"""What a back end published: Redis payload → Notification, or MessageError."""

from __future__ import annotations

import codecs
import re
import time
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate

import msgspec

from trio_sse.delivery import sse
from trio_sse.delivery.event_ids import EntryId

MAX_USER_ID = 128
"""Characters a user id may have, in a message and in a request alike."""

MAX_DEPTH = 512
"""How deep arrays and objects may be nested, the outermost counted. The parsers of every Python version take
more."""

_MAX_INTEGER = 10**MAX_USER_ID
_MIN_INTEGER = -_MAX_INTEGER // 10

EVERYBODY = "*"

# Event names of notices, and those that a browser dispatches on every EventSource.
RESERVED_EVENTS = frozenset(
    {"connected", "heartbeat", "gap", "draining", "overloaded", "auth_expired", "open", "error"}
)


class MessageError(ValueError):
    """A payload that cannot be delivered. The text is the reason, fit for a log line."""


class Notification(msgspec.Struct, frozen=True, gc=False):  # made in a fifth of a NamedTuple's time
    """A message to deliver: to whom (None: everybody), under which event name, and its JSON."""

    users: tuple[str, ...] | None
    event: str | None
    """One line."""
    data: bytes
    topics: tuple[str, ...] = ()
    """The names of the topics it is for."""

    def frame(self, id: str) -> bytes:  # noqa: A002
        """The event that clients get. `id` is one of this service."""
        return sse.message(self.data, id, self.event)


_UserId = int | str | list[int | str]


class _Envelope(msgspec.Struct, gc=False):
    # Only what routing needs is decoded. The rest is the publisher's and passes through unchanged.
    user_id: _UserId
    event: msgspec.Raw = msgspec.Raw(b"")
    created_at: msgspec.Raw = msgspec.Raw(b"")


class _RawEnvelope(msgspec.Struct, gc=False):
    user_id: msgspec.Raw
    event: msgspec.Raw = msgspec.Raw(b"")
    created_at: msgspec.Raw = msgspec.Raw(b"")


_envelope = msgspec.json.Decoder(_Envelope)
_raw_envelope = msgspec.json.Decoder(_RawEnvelope)
_user_id: msgspec.json.Decoder[_UserId] = msgspec.json.Decoder(_UserId)
_string = msgspec.json.Decoder(str)


def decode(payload: bytes, max_bytes: int, entry: EntryId | None = None) -> Notification:
    """Read a payload from Redis. `created_at` (RFC 3339, UTC) is added when it is missing: the current time,
    or for a log entry the time in its id `entry`, which is the same each time it is read.

    If a field is there twice, the last one counts. Raises MessageError when the payload is over `max_bytes`,
    not UTF-8, not JSON (RFC 8259), nested more than MAX_DEPTH deep, not an object, or its `user_id` or
    `event` cannot be used.
    """
    if len(payload) > max_bytes:
        raise MessageError(f"{len(payload)} bytes, over SSE_MAX_MESSAGE_BYTES={max_bytes}")
    if len(payload) > 2 * MAX_DEPTH and too_deep(payload):
        raise MessageError(_TOO_DEEP)
    try:
        if not payload.isascii():
            payload.decode()
        routed = _envelope.decode(payload)
        user_id, event, created_at = routed.user_id, routed.event, routed.created_at
    except UnicodeDecodeError as error:
        raise MessageError(_other_encoding(payload) or f"not UTF-8 (byte {error.start})") from None
    except (msgspec.DecodeError, RecursionError):
        user_id, event, created_at = _read_exactly(payload)
    if not created_at:
        end = payload.rindex(b"}")
        payload = b'%b,"created_at":"%b"}' % (payload[:end], _created_at(entry).encode())
    return Notification(_users(user_id), _event_name(event) if event else None, payload)


def _read_exactly(payload: bytes) -> tuple[_UserId, msgspec.Raw, msgspec.Raw]:
    """Read what msgspec refuses and other parsers accept: halves of surrogate pairs, which RFC 8259, 8.2
    allows, and an unusable `user_id` before another one. Raises MessageError for the rest."""
    if _SURROGATE.search(payload) and b"\0" not in payload:  # with a NUL byte it is no JSON
        masked = payload.replace(rb"\\", b"\0\0")
        payload = _HALF.sub(_NO_CHARACTER, masked).replace(b"\0\0", rb"\\")
    try:
        envelope = _raw_envelope.decode(payload)
        return _user_id.decode(envelope.user_id), envelope.event, envelope.created_at
    except msgspec.ValidationError as error:
        reason = f'{error} (user_id: an integer, a string, a list of them, or "*")'
        raise MessageError(_other_encoding(payload) or reason) from None
    except msgspec.DecodeError as error:
        raise MessageError(_other_encoding(payload) or f"not JSON: {error}") from None
    except RecursionError:  # the caller left too little of the stack
        raise MessageError(_TOO_DEEP) from None


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# For text without escaped backslashes. Without groups, since a message can have ten thousand matches.
_HALF = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))
# In a field that is passed on, any character will do. In a user id or an event name, this one is not
# accepted.
_NO_CHARACTER = rb"\\u0000"


def _other_encoding(payload: bytes) -> str | None:
    """What is wrong if the payload seems to have another encoding than UTF-8, else None."""
    if payload.startswith(codecs.BOM_UTF8):
        return "not JSON: it begins with a byte order mark (RFC 8259, 8.1)"
    if payload.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in payload[:4]:
        return "not UTF-8 but UTF-16 or UTF-32"
    return None


_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEPS = bytes(set(range(256)) - set(b'[{]}"'))
_ESCAPE = re.compile(rb"\\.", re.DOTALL)


_TOO_DEEP = f"nested too deeply: more than {MAX_DEPTH} arrays and objects within each other"


def too_deep(payload: bytes) -> bool:
    """Whether JSON is nested more than MAX_DEPTH deep. Looks at brackets outside of strings."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in payload:
        payload = _ESCAPE.sub(b"", payload)
    steps = payload.translate(_STEPS, _NO_STEPS).replace(b'""', b"")
    outside = b"".join(steps.split(b'"')[::2])
    return max(accumulate(memoryview(outside).cast("b")), default=0) > MAX_DEPTH


def user_id_problem(user_id: str) -> str | None:
    """Why `user_id` cannot be used, or None. Messages and requests have the same rule."""
    return name_problem("user_id", user_id)


def topic_problem(name: str) -> str | None:
    """Why a topic cannot have this name, or None. Messages and requests have the same rule."""
    if "*" in name:
        return 'topic has a "*"'
    return name_problem("topic", name)


def name_problem(what: str, name: str) -> str | None:
    """Why the id of a user, or the name of a topic, cannot be used, or None."""
    if not name:
        return f"{what} is empty"
    if len(name) > MAX_USER_ID:
        return f"{what} has {len(name)} characters, more than {MAX_USER_ID}"
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"{what} has control characters"
    return None


def _created_at(entry: EntryId | None) -> str:
    # A lower id is not a time: the publisher chose it.
    return utc_now() if entry is None or entry[0] < _FIRST_MILLISECOND else _utc(entry[0])


def utc_now() -> str:
    """The time as RFC 3339 with milliseconds, such as 2026-01-01T12:00:00.000Z."""
    return _utc(time.time_ns() // 1_000_000)


def _utc(milliseconds: int) -> str:
    milliseconds = min(milliseconds, _LAST_MILLISECOND)
    return f"{_utc_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


_FIRST_MILLISECOND = 1_000_000_000_000  # in the year 2001
_LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999


@lru_cache(maxsize=2)  # thousands of calls may come within a second
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _users(user_id: _UserId) -> tuple[str, ...] | None:
    if isinstance(user_id, int):
        if not _MIN_INTEGER < user_id < _MAX_INTEGER:
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
    """The event name of a message. None if the value is no name: then the field is the publisher's own."""
    try:
        name = _string.decode(raw)
    except msgspec.DecodeError:
        return None
    if name in ("", "message") or "\r" in name or "\n" in name or "\0" in name:
        return None
    if name in RESERVED_EVENTS:
        raise MessageError(f"event {name!r} is the service's own; use another name")
    return name
