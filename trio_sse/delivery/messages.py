"""What a back end published: Redis payload → Notification, or MessageError."""

from __future__ import annotations

import codecs
import re
import time
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Literal, Protocol

import msgspec

from trio_sse.delivery import sse
from trio_sse.delivery.event_ids import FIRST_MILLISECOND, EntryId
from trio_sse.delivery.targets import Target, topic, topic_name

MAX_USER_ID = 128
"""Characters a user id may have, in a message and in a request alike."""

MAX_DEPTH = 512
"""How deep arrays and objects may be nested, the outermost counted. The parsers of every Python version take
more."""

_MAX_INTEGER = 10**MAX_USER_ID
_MIN_INTEGER = -_MAX_INTEGER // 10

EVERYBODY = "*"

COPY = "trio_sse.copy"
"""The last field of a message that was published to several channels, one of which brought it here: a text
that its copies have in common."""

ADDED_BYTES = 128
"""By how much a message grows at most on its way to a channel by key: its copy, its times."""

Targets = tuple[Target, ...] | None
"""What a message is for. None: everybody."""

AS_IT_SAYS: Targets = ()
"""In place of targets: those that the message itself names."""

# Event names of notices, and those that a browser dispatches on every EventSource.
RESERVED_EVENTS = frozenset(
    (
        *("connected", "snapshot", "heartbeat", "gap"),
        *("draining", "overloaded", "auth_expired", "auth_revoked", "ended_by_operator", "rebalancing"),
        *("open", "error"),
    )
)


Fault = Literal["too_large", "too_deep", "not_json", "bad_target", "bad_field", "no_payload"]


class MessageError(ValueError):
    """A payload that cannot be delivered. The text is the reason, fit for a log line; `kind` is that of the
    reason, fit for a counter."""

    def __init__(self, reason: str, kind: Fault = "bad_field") -> None:
        super().__init__(reason)
        self.kind = kind


class Notification(msgspec.Struct, frozen=True, gc=False):  # made in a fifth of a NamedTuple's time
    """A message to deliver: to which users and topics (None: to everybody), under which event name, and its
    JSON."""

    targets: tuple[Target, ...] | None
    event: str | None
    """One line."""
    data: bytes
    key: str | None = None
    """What it is the state of. None: it is an event."""
    forgets: bool = False
    """Whether there is no such state any more."""
    expires_at: float | None = None
    """When it is of no use any more, in seconds since 1970. None: never."""
    copy: bytes | None = None
    """What all copies of a message have in common that was published to several channels."""
    reply_to: str | None = None
    """The Redis list that asks what became of it."""
    elsewhere: tuple[Target, ...] = ()
    """Further targets, of which those who follow them get it from other partitions of the log. ALL: everybody
    may."""

    @property
    def users(self) -> tuple[str, ...] | None:
        """The users among the targets. None: everybody."""
        return self.targets and tuple([one for one in self.targets if topic_name(one) is None])

    @property
    def topics(self) -> tuple[str, ...]:
        """The names of the topics among the targets."""
        return tuple([name for one in self.targets or () if (name := topic_name(one)) is not None])

    def within(self, targets: tuple[Target, ...] | None, elsewhere: tuple[Target, ...]) -> Notification:
        """The same message in one partition of the log."""
        return msgspec.structs.replace(self, targets=targets, elsewhere=elsewhere)

    def frame(self, id: str) -> bytes:  # noqa: A002
        """The event that clients get. `id` is one of this service."""
        return sse.message(self.data, id, self.event)

    def bare_frame(self) -> bytes:
        """The event without an id: it is no place from which a client can resume."""
        return sse.event(self.data, name=self.event)


_Names = int | str | list[int | str] | None


class _Routed(msgspec.Struct, gc=False):
    # Only what routing needs is decoded. The rest is the publisher's and passes through unchanged.
    event: msgspec.Raw = msgspec.Raw(b"")
    created_at: msgspec.Raw = msgspec.Raw(b"")
    key: msgspec.Raw = msgspec.Raw(b"")
    ttl: msgspec.Raw = msgspec.Raw(b"")
    expires_at: msgspec.Raw = msgspec.Raw(b"")
    copy: msgspec.Raw = msgspec.field(default=msgspec.Raw(b""), name=COPY)
    reply_to: msgspec.Raw = msgspec.Raw(b"")


class _Envelope(_Routed, gc=False):
    user_id: _Names = None
    topic: _Names = None


class _RawEnvelope(_Routed, gc=False):
    user_id: msgspec.Raw = msgspec.Raw(b"null")
    topic: msgspec.Raw = msgspec.Raw(b"null")


class _State(msgspec.Struct, gc=False):
    message: msgspec.Raw = msgspec.Raw(b"")


_envelope = msgspec.json.Decoder(_Envelope)
_raw_envelope = msgspec.json.Decoder(_RawEnvelope)
_names: msgspec.json.Decoder[_Names] = msgspec.json.Decoder(_Names)
_string = msgspec.json.Decoder(str)
_state = msgspec.json.Decoder(_State)
_seconds: msgspec.json.Decoder[float | None] = msgspec.json.Decoder(float | None)
_time: msgspec.json.Decoder[float | datetime | None] = msgspec.json.Decoder(float | datetime | None)
_key: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)


class Decode(Protocol):
    """Reads a payload as `decode` does."""

    def __call__(
        self, payload: bytes, max_bytes: int, entry: EntryId | None = None, to: Targets = AS_IT_SAYS
    ) -> Notification: ...


def decode(
    payload: bytes, max_bytes: int, entry: EntryId | None = None, to: Targets = AS_IT_SAYS
) -> Notification:
    """Read a payload from Redis. `created_at` (RFC 3339, UTC) is added when it is missing: the current time,
    or for a log entry the time in its id `entry`, which is the same each time it is read.

    `to` is what the channel is for that brought it. It counts, and the payload need name no target, unless it
    is a copy (COPY): that is for all that it names.

    If a field is there twice, the last one counts. Raises MessageError when the payload is over `max_bytes`,
    not UTF-8, not JSON (RFC 8259), nested more than MAX_DEPTH deep, not an object, or its `user_id`, `topic`
    or `event` cannot be used.
    """
    if len(payload) > max_bytes + (0 if to == AS_IT_SAYS else ADDED_BYTES):
        raise MessageError(f"{len(payload)} bytes, over SSE_MAX_MESSAGE_BYTES={max_bytes}", "too_large")
    if len(payload) > 2 * MAX_DEPTH and too_deep(payload):
        raise MessageError(_TOO_DEEP, "too_deep")
    try:
        if not payload.isascii():
            payload.decode()
        envelope = _envelope.decode(payload)
        user_id, topics = envelope.user_id, envelope.topic
        routed: _Routed = envelope
    except UnicodeDecodeError as error:
        raise MessageError(
            _other_encoding(payload) or f"not UTF-8 (byte {error.start})", "not_json"
        ) from None
    except (msgspec.DecodeError, RecursionError):
        user_id, topics, routed = _read_exactly(payload)
    copy = _copy_of(routed.copy) if routed.copy else None
    targets = _targets(user_id, topics) if to == AS_IT_SAYS or copy else to
    event = _event_name(routed.event) if routed.event else None
    key, forgets, expires_at = None, False, None
    if routed.key and (key := _key_of(routed.key)) is not None:
        forgets = bytes(_state.decode(payload).message) == b"null"
    if routed.ttl or routed.expires_at:
        expires_at = _expires_at(routed.ttl, routed.expires_at, entry)
    if copy is not None:
        payload = _without_copy(payload, copy)
    if not routed.created_at:
        end = payload.rindex(b"}")
        payload = b'%b,"created_at":"%b"}' % (payload[:end], _created_at(entry).encode())
    if key is None and expires_at is None and copy is None and not routed.reply_to:
        return Notification(targets, event, payload)
    reply_to = _list_of(routed.reply_to) if routed.reply_to else None
    return Notification(targets, event, payload, key, forgets, expires_at, copy, reply_to)


def _read_exactly(payload: bytes) -> tuple[_Names, _Names, _Routed]:
    """Read what msgspec refuses and other parsers accept: halves of surrogate pairs, which RFC 8259, 8.2
    allows, and an unusable `user_id` or `topic` before another one. Raises MessageError for the rest."""
    if _SURROGATE.search(payload) and b"\0" not in payload:  # with a NUL byte it is no JSON
        masked = payload.replace(rb"\\", b"\0\0")
        payload = _HALF.sub(_NO_CHARACTER, masked).replace(b"\0\0", rb"\\")
    try:
        envelope = _raw_envelope.decode(payload)
        user_id, topics = _names.decode(envelope.user_id), _names.decode(envelope.topic)
        return user_id, topics, envelope  # noqa: TRY300
    except msgspec.ValidationError as error:
        reason = (
            f'{error} (user_id: an integer, a string, a list of them, or "*"; topic: the same without "*")'
        )
        raise MessageError(_other_encoding(payload) or reason, "bad_target") from None
    except msgspec.DecodeError as error:
        raise MessageError(_other_encoding(payload) or f"not JSON: {error}", "not_json") from None
    except RecursionError:  # the caller left too little of the stack
        raise MessageError(_TOO_DEEP, "too_deep") from None


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


def _copy_of(raw: msgspec.Raw) -> bytes | None:
    """What the copies of a message have in common. None if the field is the publisher's own."""
    copy = bytes(raw)
    return copy if _COPY.fullmatch(copy) else None


def with_copy(payload: bytes, copy: str) -> bytes:
    """A JSON object that says of which message it is a copy. `copy` is 22 characters of base64url."""
    return b'%b,"%b":"%b"}' % (payload[: payload.rindex(b"}")], COPY.encode(), copy.encode())


def with_expiry(payload: bytes, expires_at: float) -> bytes:
    """A JSON object with this time, which counts beside its `ttl`: that counts from when it is read."""
    at = min(max(expires_at, 0.0), _LAST_MILLISECOND / 1000)  # as a float it may have 300 digits
    return b'%b,"expires_at":%.3f}' % (payload[: payload.rindex(b"}")], at)


def _without_copy(payload: bytes, copy: bytes) -> bytes:
    """The JSON object as it was before `with_copy`."""
    end = b',"%b":%b}' % (COPY.encode(), copy)
    return payload.removesuffix(end) + b"}" if payload.endswith(end) else payload


_COPY = re.compile(rb'"[A-Za-z0-9_-]{22}"')


def _list_of(raw: msgspec.Raw) -> str | None:
    """The list that is to be told what became of a message. None if the field is the publisher's own."""
    try:
        return _string.decode(raw) or None
    except msgspec.DecodeError:
        return None


def _key_of(raw: msgspec.Raw) -> str | None:
    try:
        key = _key.decode(raw)
    except msgspec.DecodeError:
        raise MessageError("key is not a text") from None
    if key is not None and (problem := name_problem("key", key)):
        raise MessageError(problem)
    return key


def _expires_at(ttl: msgspec.Raw, expires_at: msgspec.Raw, entry: EntryId | None) -> float | None:
    """When a message expires, in seconds since 1970. `ttl` counts from the time in the log's id, or from
    now."""
    times = []
    if ttl:
        try:
            seconds = _seconds.decode(ttl)
        except msgspec.DecodeError:
            raise MessageError("ttl is not a number of seconds") from None
        if seconds is not None:
            timed = entry is not None and entry[0] >= FIRST_MILLISECOND
            times.append((entry[0] / 1000 if entry and timed else time.time()) + seconds)
    if expires_at:
        try:
            at = _time.decode(expires_at)
        except msgspec.DecodeError:
            raise MessageError("expires_at is not a time (RFC 3339, or seconds since 1970)") from None
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise MessageError("expires_at has no time zone (RFC 3339)")
            at = at.timestamp()
        if at is not None:
            times.append(at)
    return min(times, default=None)


def _created_at(entry: EntryId | None) -> str:
    # A lower id is not a time: the publisher chose it.
    return utc_now() if entry is None or entry[0] < FIRST_MILLISECOND else _utc(entry[0])


def utc_now() -> str:
    """The time as RFC 3339 with milliseconds, such as 2026-01-01T12:00:00.000Z."""
    return _utc(time.time_ns() // 1_000_000)


def _utc(milliseconds: int) -> str:
    milliseconds = min(milliseconds, _LAST_MILLISECOND)
    return f"{_utc_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


_LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999


@lru_cache(maxsize=2)  # thousands of calls may come within a second
def _utc_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _targets(user_id: _Names, topics: _Names) -> tuple[Target, ...] | None:
    if user_id is None and topics is None:
        raise MessageError("neither user_id nor topic", "bad_target")
    names = () if topics is None else _texts("topic", topics)
    for name in names:
        if problem := topic_problem(name):
            raise MessageError(problem, "bad_target")
    users = () if user_id is None else _texts("user_id", user_id)
    if EVERYBODY in users:
        return None
    if not isinstance(user_id, int):
        for user in users:
            if problem := user_id_problem(user):
                raise MessageError(problem, "bad_target")
    return (*users, *map(topic, names)) if names else users


def _texts(what: str, names: int | str | list[int | str]) -> tuple[str, ...]:
    if isinstance(names, int):
        if not _MIN_INTEGER < names < _MAX_INTEGER:
            raise MessageError(f"{what} has more than {MAX_USER_ID} characters", "bad_target")
        return (str(names),)
    if isinstance(names, str):
        return (names,)
    if not names:
        raise MessageError(f"{what} is an empty list", "bad_target")
    return tuple(dict.fromkeys(map(str, names)))  # 1 and "1" are one, and get one copy


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
