"""What the processes of the service tell each other, and whoever has SSE_ADMIN_TOKEN: the shape of it."""

from __future__ import annotations

import msgspec

from trio_sse.broker.control import Node


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom, or which message, an explanation is about."""

    user: str | None = None
    id: str | None = None
    fingerprint: tuple[int, int] | None = None
    """CRC-32 and size of the payload of a message, for processes that do not know its id."""
    at: float = 0.0
    """When that message came to another process."""


class Ending(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which streams are to end: one, those of a user, or those of tokens. `revoke`: the tokens do not count
    any more, until then."""

    stream: str | None = None
    user: str | None = None
    jti: str | None = None
    issued_before: float | None = None
    revoke: float | None = None


class Ended(msgspec.Struct, frozen=True):
    """How many streams of a process were ended."""

    streams: int


class StreamReport(msgspec.Struct, omit_defaults=True):
    """A stream. Times are in seconds since 1970."""

    id: str
    user: str | None
    topics: list[str]
    address: str
    opened: float
    state: str
    """beginning, catching_up, live or ended."""
    process: str = ""
    ended: float | None = None
    why: str | None = None
    resumed: str | None = None
    replayed: int = 0
    gap: str | None = None
    caught_up: float | None = None
    waiting: int = 0
    waiting_since: float | None = None
    behind: int | None = None
    """Bytes that were written for the client, and that it has not acknowledged."""
    dropped: int = 0
    superseded: int = 0
    expired: int = 0
    slowest: float = 0.0
    """Seconds that a message had to wait for the client, at the most."""
    jti: str | None = None
    issued_at: float | None = None


class OutcomeReport(msgspec.Struct, omit_defaults=True):
    """What became of a message for a stream: see delivery/outcomes."""

    stream: str
    code: str
    at: float | None = None
    seconds: float | None = None


class MessageReport(msgspec.Struct, omit_defaults=True):
    """A message that came to a process."""

    id: str
    at: float
    users: list[str]
    topics: list[str]
    everybody: bool = False
    more: int = 0
    """Targets beside these."""
    size: int = 0
    key: str | None = None
    expires: float | None = None
    fingerprint: int = 0
    from_log: bool = False
    outcomes: list[OutcomeReport] = []
    counts: dict[str, int] = {}
    """Outcomes by code, where no user was asked for."""


class RefusalReport(msgspec.Struct, omit_defaults=True):
    """A request for a stream that got none."""

    at: float
    status: int
    detail: str
    address: str
    user: str | None = None
    claimed: bool = False
    """The user is what a token says that proves nothing."""
    holder: str | None = None
    """Whom its token names, if that is another user: this proves nothing either."""
    jti: str | None = None


class TroubleReport(msgspec.Struct):
    """Something that went wrong for more than one stream."""

    at: float
    kind: str
    detail: str


class AwayReport(msgspec.Struct, omit_defaults=True):
    """A time without Redis."""

    began: float
    why: str
    ended: float | None = None
    process: str = ""


class BadReport(msgspec.Struct):
    """A payload that was no message, and that names the user, or is the entry that was asked for."""

    at: float
    reason: str
    size: int
    process: str
    asked: bool = False
    """It is the entry of the log that was asked for."""


class Report(msgspec.Struct, omit_defaults=True):
    """What one process knows."""

    node: Node
    messages_since: float
    streams_since: float
    problem: str | None = None
    streams: list[StreamReport] = []
    more_streams: int = 0
    refusals: list[RefusalReport] = []
    messages: list[MessageReport] = []
    bad: list[BadReport] = []
    away: list[AwayReport] = []


class Overview(msgspec.Struct):
    """What one process does now."""

    node: Node
    at: float
    since: float
    streams: int
    users: int
    topics: int
    most: list[tuple[str, int]]
    """Topics with the most streams, and how many."""
    totals: dict[str, int]
    pending_bytes: int
    """Received, and not given to the streams yet."""
    loop_seconds: float
    """How late the event loop was, at the most, while this was made."""
    lag_seconds: float | None
    """How old the last entry of the log was when it was read. None: none was."""
    problem: str | None
    slow: list[StreamReport]
    waiting: int
    """Streams for which something waits."""
    troubles: list[TroubleReport]
    refusals: list[RefusalReport]
