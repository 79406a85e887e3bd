"""What happened to one stream, as far as it is not the usual: see `recorder`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from typing import NamedTuple, Protocol

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.targets import Followed
from trio_sse.delivery.traces import Trace

MOST_EVENTS = 100
"""Events that are kept of one stream. What is asked of messages before the oldest has no answer then."""

DROPPED, SUPERSEDED, EXPIRED, WAITED, MISSING = "dropped", "superseded", "expired", "waited", "missing"


class Happened(NamedTuple):
    """Something that happened to the messages of a stream from `first` to `last`, which are sequences."""

    what: str
    """DROPPED: no room. SUPERSEDED: a newer one of the key took its place. EXPIRED: while it waited. WAITED:
    for a client that did not take it at once. MISSING: what history no longer had, when it caught up."""
    first: int
    last: int
    number: int
    began: float
    ended: float
    """Seconds since 1970."""


class Recorded(Protocol):
    """The connection of a record. A Connection is one."""

    since: int

    @property
    def behind(self) -> int | None:
        """Bytes that were written for the client and that it has not acknowledged. None: not known."""
        ...

    def end(self, last_words: bytes = b"") -> None:
        """Send `last_words`, and close."""
        ...


class StreamRecord:
    """One stream. A connection tells it what happens beside the quick way: a message that the socket takes at
    once costs nothing here. Times are in seconds since 1970."""

    __slots__ = (
        "_held",
        "_run",
        "_waiting_since",
        "address",
        "after",
        "by_token",
        "connection",
        "ended",
        "events",
        "follows",
        "forgotten",
        "gap",
        "id",
        "issued_at",
        "jti",
        "last",
        "live",
        "live_at",
        "log_after",
        "opened",
        "parts",
        "replayed",
        "resumed",
        "snapshot",
        "waiting",
        "why",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        connection: Recorded,
        follows: Followed,
        address: str = "",
        *,
        resumed: str | None = None,
        by_token: bool = False,
        jti: str | None = None,
        issued_at: float | None = None,
    ) -> None:
        self.id = id
        self.connection: Recorded | None = connection
        """None when the stream has left."""
        self.follows = follows
        self.address = address
        self.resumed = resumed
        """The Last-Event-ID that it came with."""
        self.by_token = by_token
        """Whether it needed a token."""
        self.jti = jti
        self.issued_at = issued_at
        """Of the token: `jti`, and `iat`."""
        self.opened = time.time()
        self.after: int | None = None
        """It gets what is newer than this sequence. None while that is not known."""
        self.gap: str | None = None
        """The reason of the `gap` that it began with."""
        self.log_after: EntryId | None = None
        """What the log has after this entry, up to `after`, it got from there."""
        self.snapshot = False
        """Whether it began with the newest message of each key."""
        self.replayed = 0
        """Messages that it was to get of what it had missed."""
        self.live: int | None = None
        """Up to this sequence it caught up, and then was live. None before."""
        self.live_at: float | None = None
        self.events: deque[Happened] | None = None
        self.forgotten = 0
        """Of messages up to this sequence some events are no longer known."""
        self.waiting: list[int] = []
        """Sequences that wait for the client."""
        self.last: int | None = None
        """The sequence of the last message that was for it, when it ended."""
        self.ended: float | None = None
        self.why = ""
        """Why it ended."""
        self.parts: dict[Partition, StreamRecord] = {}
        """What happened in each partition of the log, if it has any. Then nothing but its beginning and its
        end is remembered here."""
        self._waiting_since = 0.0
        self._run = False
        self._held: dict[int, tuple[Trace, float | None]] = {}

    @property
    def strands(self) -> Collection[StreamRecord]:
        """The records of all partitions; without any, this one."""
        return self.parts.values() or (self,)

    def part(self, partition: Partition, connection: Recorded, follows: Followed) -> StreamRecord:
        """The record of what one partition has of it."""
        made = self.parts[partition] = StreamRecord(self.id, connection, follows, self.address)
        made.opened = self.opened
        return made

    # What its connection tells.

    def goes_on(
        self,
        since: int,
        after: int,
        gap: str | None,
        replayed: int,
        log_after: EntryId | None,
        *,
        snapshot: bool,
    ) -> None:
        """It begins after the sequence `after`, or goes on there though it had come to `since` only. What is
        in between, and newer than the log's entry `log_after`, comes from the log if there is one."""
        first = self.after is None
        if first:
            self.after, self.gap, self.replayed = after, gap, replayed
            self.log_after, self.snapshot = log_after, snapshot
        elif gap and after > since:
            now = time.time()
            self._add(Happened(MISSING, since + 1, after, 0, now, now))
        if log_after is None and (gap or first):
            outcome = MISSING if gap else "snapshot" if snapshot else "before"
            for sequence in [one for one in self._held if one <= after]:
                self._over(sequence, outcome)

    def replays(self, through: int, now: float) -> None:
        """It was given all up to `through` that it had missed, but what had expired by `now`, in the clock of
        history."""
        for sequence in [one for one in self._held if one <= through]:
            expires = self._held[sequence][1]
            self._over(sequence, EXPIRED if expires is not None and expires <= now else "replayed")

    def is_live(self, sequence: int) -> None:
        """It has caught up, with all up to `sequence`."""
        if self.live is None:
            self.live, self.live_at = sequence, time.time()

    def holds(self, sequence: int, trace: Trace, expires: float | None = None) -> None:
        """This message, which is traced, waits for the client; or will be replayed to it unless it has
        expired by then, at `expires`."""
        before = self.after is not None and self.log_after is None and sequence <= self.after
        if not before and sequence not in self._held and trace.held():
            self._held[sequence] = trace, expires

    def waits(self, sequence: int) -> None:
        """The client did not take it at once."""
        if not self.waiting:
            self._waiting_since = time.time()
        self.waiting.append(sequence)
        self._run = False

    def drops(self, first: int, last: int, count: int) -> None:
        """There was no room for these."""
        now = time.time()
        if self._run and self.events:
            before = self.events[-1]
            self.events[-1] = before._replace(last=last, number=before.number + count, ended=now)
        else:
            self._add(Happened(DROPPED, first, last, count, now, now))
            self._run = True

    def supersedes(self, sequence: int) -> None:
        """A newer one of its key took its place."""
        now = time.time()
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        self._add(Happened(SUPERSEDED, sequence, sequence, 1, now, now))
        self._over(sequence, SUPERSEDED)

    def expires(self, sequence: int) -> None:
        """It expired before the client took it."""
        now = time.time()
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        self._add(Happened(EXPIRED, sequence, sequence, 1, now, now))
        self._over(sequence, EXPIRED)

    def takes(self) -> None:
        """The client took all that waited."""
        self._run = False
        if self.waiting:
            first, last = self.waiting[0], self.waiting[-1]
            self._add(Happened(WAITED, first, last, len(self.waiting), self._waiting_since, time.time()))
            self.waiting = []
        for sequence in [one for one, (_, expires) in self._held.items() if expires is None]:
            self._over(sequence, WAITED)

    def ends(self, why: str = "") -> None:
        """It ends. The first reason counts."""
        if self.ended is None:
            self.ended = time.time()
            self.why = why or "left"

    def leaves(self) -> None:
        """Its connection is released."""
        self.ends()
        if self.connection is not None:
            self.last = self.connection.since
            self.connection = None
        for sequence in list(self._held):
            self._over(sequence, "unsent")
        for part in self.parts.values():
            part.leaves()

    @property
    def waiting_since(self) -> float | None:
        return self._waiting_since if self.waiting else None

    @property
    def reached(self) -> int:
        """The sequence up to which everything for it was given to it, dropped, or put to wait."""
        return self.connection.since if self.connection is not None else self.last or 0

    def _over(self, sequence: int, outcome: str) -> None:
        if (held := self._held.pop(sequence, None)) is not None:
            held[0].over(outcome)

    def _add(self, event: Happened) -> None:
        if self.events is None:
            self.events = deque()
        self.events.append(event)
        if len(self.events) > MOST_EVENTS:
            oldest = self.events.popleft()
            if oldest.what != WAITED:
                self.forgotten = max(self.forgotten, oldest.last)
