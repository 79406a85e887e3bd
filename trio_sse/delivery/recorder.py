"""What is remembered of messages, streams and refusals, to explain later who got what. Bounded. Synchronous,
no I/O."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import Target

_MESSAGE_BYTES = 320
_TARGET_BYTES = 100
_STREAM_BYTES = 1000
_EVENT_BYTES = 150
_REFUSAL_BYTES = 600
"""About what these records take."""

SAME_SECONDS = 0.5
"""What is told again within so long is the same trouble."""

MOST_BAD = 1000
MOST_ERRORS = 200
BAD_BYTES = 500
"""How much is kept of a payload that is no message, to find whom it may have been for. It is never shown."""

NO_SEQUENCE = -1


class MessageRecord(msgspec.Struct, frozen=True, gc=False):
    """A message that came."""

    sequence: int
    """NO_SEQUENCE: it had expired when it came."""
    at: float
    """Seconds since 1970."""
    entry: EntryId | None
    """The log's entry that was read last: its own if it is `from_log`."""
    from_log: bool
    partition: Partition | None
    """That of the log which it came from. None: the log has none, or it came by a channel."""
    targets: tuple[Target, ...] | None
    """None: everybody."""
    fingerprint: int
    """The same in all processes: CRC-32 of the payload. 0: not known."""
    size: int
    key: str | None
    expires: float | None
    """Seconds since 1970."""


class BadMessage(NamedTuple):
    """A payload that is no message."""

    at: float
    reason: str
    size: int
    beginning: bytes
    entry: EntryId | None = None
    """The log's entry that it is. None: it came by a channel."""
    partition: Partition | None = None


class Refusal(NamedTuple):
    """A request for a stream that got none."""

    at: float
    user: str | None
    """Whom it named, or its token."""
    claimed: bool
    """Whether the user is only what a token says that proves nothing."""
    status: int
    detail: str
    address: str
    jti: str | None = None
    holder: str | None = None
    """Whom its token names, if that is another user. It proves nothing."""


class Trouble(NamedTuple):
    """Something that went wrong for more than one stream."""

    at: float
    kind: str
    """bad_message, gap, redis_lost, redis_back."""
    detail: str


_T = TypeVar("_T")


class Ring(Generic[_T]):
    """The newest items, up to a number and to so many bytes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.items: deque[_T] = deque()
        self.dropped = 0
        """Items that had to go."""
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    def add(self, item: _T, size: int) -> None:
        self.items.append(item)
        self._sizes.append(size)
        self._bytes += size
        if self._bytes > self._most_bytes or len(self.items) > self._most:
            self._evict()

    def _evict(self) -> None:
        while len(self.items) > self._most or self._bytes > self._most_bytes:
            self.items.popleft()
            self._bytes -= self._sizes.popleft()
            self.dropped += 1

    def __iter__(self) -> Iterator[_T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Recorder:
    """Remembers the last `most` messages, ended streams and refusals each, in about `most_bytes` in all.
    Streams that are open are remembered besides, with what happened to them."""

    def __init__(self, most: int, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.since = clock()
        """Nothing is known from before, in seconds since 1970."""
        self.messages: Ring[MessageRecord] = Ring(most, most_bytes // 2)
        self.ended: Ring[StreamRecord] = Ring(most, most_bytes // 4)
        self.refusals: Ring[Refusal] = Ring(most, most_bytes // 8)
        self.bad: Ring[BadMessage] = Ring(MOST_BAD, most_bytes // 8)
        self.open: dict[str, StreamRecord] = {}
        """By id."""
        self.troubles: deque[Trouble] = deque(maxlen=MOST_ERRORS)
        """The oldest first."""
        self._clock = clock

    @property
    def messages_since(self) -> float:
        """All messages from then on are known."""
        messages = self.messages
        return messages.items[0].at if messages.dropped and messages.items else self.since

    @property
    def streams_since(self) -> float:
        """All streams that ended from then on are known."""
        ended = self.ended
        return ended.items[0].ended or self.since if ended.dropped and ended.items else self.since

    def message(
        self,
        sequence: int,
        entry: EntryId | None,
        targets: tuple[Target, ...] | None,
        payload: bytes,
        key: str | None = None,
        expires: float | None = None,
        *,
        from_log: bool,
        partition: Partition | None = None,
        age: float = 0.0,
    ) -> None:
        """A message came, so many seconds ago."""
        count = 1 if targets is None else len(targets)
        self.messages.add(
            MessageRecord(
                sequence,
                self._clock() - age,
                entry,
                from_log,
                partition,
                targets,
                zlib.crc32(payload) if payload else 0,
                len(payload),
                key,
                expires,
            ),
            _MESSAGE_BYTES + _TARGET_BYTES * count,
        )

    def bad_message(
        self,
        reason: str,
        payload: bytes,
        entry: EntryId | None = None,
        partition: Partition | None = None,
    ) -> None:
        bad = BadMessage(self._clock(), reason, len(payload), payload[:BAD_BYTES], entry, partition)
        self.bad.add(bad, _REFUSAL_BYTES + BAD_BYTES)
        self.trouble("bad_message", reason)

    def trouble(self, kind: str, detail: str) -> None:
        now, detail = self._clock(), detail[:300]
        newest = self.troubles[-1] if self.troubles else None
        # Each partition of a log, and each master of a cluster, has a link of its own that tells the same.
        if newest is None or newest[1:] != (kind, detail) or now - newest.at > SAME_SECONDS:
            self.troubles.append(Trouble(now, kind, detail))

    def refused(self, refusal: Refusal) -> None:
        self.refusals.add(refusal, _REFUSAL_BYTES)

    def opened(self, record: StreamRecord) -> None:
        self.open[record.id] = record

    def left(self, record: StreamRecord) -> None:
        """The stream is over. Calling it again is harmless."""
        if self.open.pop(record.id, None) is not None:
            record.leaves()
            self.ended.add(record, _STREAM_BYTES + _EVENT_BYTES * len(record.events or ()))

    def away(self) -> Iterable[tuple[float, float | None, str]]:
        """When Redis was away, until when, and why. None: it is."""
        began: tuple[float, str] | None = None
        for trouble in self.troubles:
            if trouble.kind == "redis_lost":
                began = began or (trouble.at, trouble.detail)
            elif trouble.kind == "redis_back" and began is not None:
                yield began[0], trouble.at, began[1]
                began = None
        if began is not None:
            yield began[0], None, began[1]
