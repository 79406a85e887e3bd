"""Where a client resumes from: memory, the log, or a declared `gap`."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from trio_sse.delivery import notices
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.event_ids import EntryId, Position, parse
from trio_sse.delivery.history import History
from trio_sse.delivery.interest import Interest, Since
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.targets import topics_of, user_of


class Start(NamedTuple):
    """Where a client asks to begin. Without any of these: with the next message."""

    last_event_id: str | None = None
    """After this message. It counts before the others: a browser that reconnects repeats its query."""
    rewind: int = 0
    """With the last so many messages."""
    seconds: float | None = None
    """With what came in the last so many seconds."""
    snapshot: bool = False
    """With the newest message of each key, before anything else."""


class FromMemory(NamedTuple):
    """Go on after the sequence `after`. `gap` is the reason why messages before it are missing, or None."""

    after: int
    gap: str | None = None


class FromLog(NamedTuple):
    """Only the log has what came after its entry `after`."""

    after: EntryId
    gap: str | None = None
    whole: bool = False
    """Whether all of it comes from the log, because memory also has messages of the channel."""


def decide(position: Position | None, history: History) -> FromMemory | FromLog:
    """Where to resume from `position`, which is None when it could not be read.

    A position that this process gave counts by its sequence, any other by the log's entry in it. What came by
    the channel in another process is not known here: a `gap` says so once the channel is in use.
    """
    sources = history.sources
    if position is None:
        return FromMemory(history.latest, "unknown_id")
    ours, entry = sources.is_ours(position, history.latest), position.entry
    if ours and position.sequence >= history.floor:
        return FromMemory(position.sequence)
    if entry is None or not sources.has_log:
        if ours:
            return FromMemory(history.floor, "history_expired")
        return FromMemory(history.latest, "unknown_id")
    if not history.covers(entry):
        whole = sources.is_mixed(position) and not ours
        return FromLog(entry, sources.log_doubt(position, ours=ours), whole=whole)
    if ours:  # all that is missing came by the channel
        return FromMemory(history.floor, "history_expired")
    sequence = history.sequence_of(entry)
    if position.process is None and not sources.replay_doubt(sequence):
        # The client got nothing by the channel. What came by it before this process subscribed is not known.
        return FromMemory(sequence, sources.entry_doubt(entry) or sources.channel_doubt(sequence))
    # Memory has messages of the channel, and the client may have got them from another process.
    return FromLog(entry, "unknown_id", whole=True)


@dataclass(slots=True, eq=False)
class PendingReplay:
    """A connection that waits for messages from the log: those after `after`, or the next page of its `rest`.
    The reference is weak: a connection that leaves meanwhile is freed."""

    _waits: weakref.ref[Connection]
    after: EntryId
    gap: str | None
    greet: bool = False
    whole: bool = False
    rest: Rest | None = None
    older: list[bytes] = field(default_factory=list)
    """Filled by the lookup: all of it, or a page."""
    count: int = 0
    """How many messages the log has for it in all."""
    answered: bool = False

    @property
    def connection(self) -> Connection | None:
        """The connection that waits. None when it has left."""
        connection = self._waits()
        return None if connection is None or connection.closed else connection


_NOW = Start()

Greet = Callable[[Connection, str | None, int], bytes]
"""Makes the first words of a stream from its position, or None, and the number of messages that follow."""


def greeting(heartbeat_seconds: float, connection: Connection, position: str | None, replayed: int) -> bytes:
    """The first notice of a stream, and its retry time."""
    record = connection.record
    return notices.connected(
        user_of(connection.follows),
        topics_of(connection.follows),
        f"{random.getrandbits(64):016x}" if record is None else record.id,
        heartbeat_seconds,
        position=position,
        replayed=replayed,
    )


class Resumer:
    """Lets connections begin. One that memory cannot serve gets a pending replay, which the lookup
    answers."""

    def __init__(
        self,
        history: History,
        *,
        heartbeat_seconds: float,
        snapshot: Snapshot | None = None,
        interest: Interest | None = None,
        greet: Greet | None = None,
    ) -> None:
        """With an `interest`, a target has messages only while it is subscribed. `greet` makes the first
        words of a stream; else they are those of a stream that comes from here alone."""
        self.pending: dict[Connection, PendingReplay] = {}
        """Those that can be answered now."""
        self.deferred: dict[Connection, PendingReplay] = {}
        """Those after an entry that this process has not read yet."""
        self.any_pending = asyncio.Event()
        """Set while there are pending replays."""
        self._history = history
        self._interest = interest
        self._greet = greet or partial(greeting, heartbeat_seconds)
        self._snapshot = Snapshot(0, 0) if snapshot is None else snapshot  # an empty one is false

    def begin(self, connection: Connection, start: Start) -> None:
        """Let `connection` begin where its client asks to, once all it follows is subscribed."""
        if self._interest is None:
            self._begin(connection, start)
        else:
            self._interest.when_subscribed(connection, partial(self._begin, connection, start))

    def _begin(self, connection: Connection, start: Start) -> None:
        history = self._history
        if start == _NOW:
            self._go_on(connection, FromMemory(history.latest))
            return
        history.evict()
        place: FromMemory | FromLog
        if start.last_event_id is not None:
            place = decide(parse(start.last_event_id), history)
        elif start.seconds is not None:
            after, complete = history.since(start.seconds)
            place = FromMemory(after, None if complete else "history_expired")
        else:
            place = FromMemory(history.rewound(connection.follows, start.rewind, connection.skips))
        if isinstance(place, FromMemory):
            if self._interest is not None:
                place = self._without_hole(start, place, self._interest.since(connection.follows))
            newest = None
            if start.snapshot and start.last_event_id is None:
                # What is newer comes behind it, by itself: each message once, and no state goes back.
                newest = self._snapshot.frames(
                    connection.follows, history.now(), connection.skips, until=place.after
                )
            self._go_on(connection, place, newest=newest)
        else:
            self._add(
                PendingReplay(weakref.ref(connection), place.after, place.gap, greet=True, whole=place.whole)
            )

    def _without_hole(self, start: Start, place: FromMemory, since: Since) -> FromMemory:
        """`place`, if all messages from there on are known, which is so `since` then. Else the next one from
        which it is so, or a gap. What will be missing because of a lost link is told when it is back."""
        if start.seconds is not None and start.last_event_id is None:
            known = since.at <= self._history.now() - start.seconds
            return place if known else FromMemory(place.after, place.gap or "history_expired")
        if since.sequence <= place.after:
            return place
        # Not what is known of other targets before: it would stand behind the gap, with messages that are
        # missing in between.
        gap = None if start.last_event_id is None else place.gap or "history_expired"
        return FromMemory(since.sequence, gap)

    def fell_behind(self, connection: Connection, at: EntryId | None) -> None:
        """The next messages of `connection` are no longer in memory: it catches up too slowly. `at` is the
        log's entry it has reached."""
        history = self._history
        if at is None:
            self._go_on(connection, FromMemory(history.floor, "history_expired"), greet=False)
        else:
            self._add(PendingReplay(weakref.ref(connection), at, history.sources.lost_behind(at)))

    def fetch(self, connection: Connection, rest: Rest) -> None:
        """`connection` has taken all it was given, and is to get the next page of `rest`."""
        self._add(PendingReplay(weakref.ref(connection), rest.after, None, rest=rest))

    def answer(
        self,
        replay: PendingReplay,
        after: int,
        at: EntryId | None,
        gap: str | None = None,
        *,
        rest: Rest | None = None,
    ) -> None:
        """Let a connection go on: with `replay.older`, then the `rest` that is in the log, then after the
        sequence `after`, which is the log's entry `at`. A `gap` declares what is missing before all this."""
        replay.answered = True
        if connection := replay.connection:
            place = FromMemory(after, replay.gap or gap)
            self._go_on(connection, place, at=at, replay=replay, greet=replay.greet, rest=rest)

    def take_pending(self) -> list[PendingReplay]:
        """All that can be answered now, for the caller to answer."""
        replays, self.pending = list(self.pending.values()), {}
        self.any_pending.clear()
        return replays

    def put_back(self, replays: Iterable[PendingReplay]) -> None:
        """These could not be answered. They come first the next time."""
        later, self.pending = self.pending, {}
        for replay in replays:
            replay.answered = False
            self._add(replay)
        self.pending.update(later)

    def put_back_last(self, replay: PendingReplay, rest: Rest) -> None:
        """A walk found nothing for this one, and left this `rest`. It comes last the next time."""
        replay.answered = True
        self._add(replace(replay, rest=rest, answered=False))

    def defer(self, replay: PendingReplay) -> None:
        """This one can be answered when its entry has been read."""
        replay.answered = True
        if connection := replay.connection:
            self.deferred[connection] = replay

    def reached(self, entry: EntryId) -> None:
        """The log has been read up to this entry."""
        if self.deferred:
            found = {who: replay for who, replay in self.deferred.items() if replay.after <= entry}
            for connection in found:
                del self.deferred[connection]
            self.put_back(found.values())

    def forget(self, connection: Connection) -> None:
        """`connection` has left. Harmless if it has no pending replay."""
        self.pending.pop(connection, None)
        self.deferred.pop(connection, None)
        if self._interest is not None:
            self._interest.forget(connection)

    def _add(self, replay: PendingReplay) -> None:
        if connection := replay.connection:
            self.pending[connection] = replay
            self.any_pending.set()

    def _go_on(
        self,
        connection: Connection,
        place: FromMemory,
        *,
        at: EntryId | None = None,
        replay: PendingReplay | None = None,
        greet: bool = True,
        rest: Rest | None = None,
        newest: list[bytes] | None = None,
    ) -> None:
        history = self._history
        after, gap = place
        older: list[bytes] = replay.older if replay else newest or []
        behind = b""
        # A client that is cut off in between must resume from an id before what it did not get.
        from_log = replay is not None and (older or rest)
        position = history.sources.entry_text(replay.after) if replay and from_log else history.text(after)
        said, replayed, record = b"", 0, connection.record
        if greet:
            replayed = replay.count if replay else 0
            if after < history.latest:
                replayed += history.count(connection.follows, after, connection.skips)
            said = self._greet(connection, None if gap or newest is not None else position, replayed)
        if record is not None:
            log_after = rest.after if rest else replay.after if replay and from_log else None
            record.goes_on(connection.since, after, gap, replayed, log_after, snapshot=newest is not None)
        told = notices.gap(gap, None, id=None if from_log else position) if gap else b""
        if newest is not None:
            # Up to here the client has no id: cut off before, it gets the whole snapshot once more.
            behind = notices.snapshot(len(newest), None if gap else position) + told
            told = b""
        if gap:
            connection.told_gap(gap)
        connection.begin(said + told, after, older, at=at, rest=rest, behind=behind, gap=gap is not None)
