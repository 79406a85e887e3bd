"""One browser's connection: its states, and what it sends in each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol

import trio

from trio_sse.counters import Counters, add_to
from trio_sse.delivery.batch import NEWEST, Batch
from trio_sse.delivery.due import Due
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import PAGE_BYTES, History
from trio_sse.delivery.marks import Mark, Part
from trio_sse.delivery.outlet import Outlet
from trio_sse.delivery.owed import Owed
from trio_sse.delivery.receipts import Receipt
from trio_sse.delivery.replay import Replay, Rest
from trio_sse.delivery.sse import event_name
from trio_sse.delivery.states import State
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import Followed, Target

HEARTBEAT = "heartbeat"
"""The kind of notice that a connection may get at any time."""

Channel = tuple[trio.MemorySendChannel[tuple[Part, ...]], trio.MemoryReceiveChannel[tuple[Part, ...]]]
"""An item is a message, and before it what the client must know first."""

_open_channel = trio.open_memory_channel[tuple[Part, ...]]

MOST_SLOTS = 1000
MOST_STATE_BYTES = 1 << 20
"""How many slots of state may wait for one client, and how many bytes in all. Messages of further ones wait
as all others do."""

NO_SLOT = -1

_NOTHING = frozenset[Target]()

_WAITING, _CATCHING_UP, _LIVE, _CLOSED, _LEFT = State  # looked up for every message


class Recovery(Protocol):
    """Finds the next messages of a connection when they are not in memory."""

    def fell_behind(self, connection: Connection, at: EntryId | None) -> None:
        """Call `begin` of `connection`, which has reached the log's entry `at`, now or later."""
        ...

    def fetch(self, connection: Connection, rest: Rest) -> None:
        """Call `begin` of `connection` with the next page of `rest`, later."""
        ...

    def forget(self, connection: Connection) -> None:
        """`connection` has left, and no longer waits for `begin`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """What all connections of a service have in common, so that none holds it for itself."""

    counters: Counters
    history: History
    recovery: Recovery
    capacity: int
    """How many messages may wait for a client that takes none."""
    disconnect: bool = False
    """Whether a stream ends when its client has no room for a message."""


class Connection:
    """A stream of one user, or of topics, from joining the hub to leaving it.

    It has one `State` at a time. Everything but the outlet's own task is synchronous and never waits, so a
    slow client does not delay others. While the outlet of a live connection takes nothing, up to `capacity`
    messages wait in a memory channel, which is there only as long as it is needed. Messages beyond that are
    dropped and counted, and a `gap` stands where they are missing. A message that is state waits beside the
    channel, until a newer one takes its place. With `disconnect` the stream ends instead, and the client
    resumes. It also resumes when the stream ends while it catches up.
    """

    __slots__ = (
        "__weakref__",
        "_channel",
        "_common",
        "_outlet",
        "_owed",
        "_replay",
        "follows",
        "record",
        "since",
        "slot",
        "state",
    )

    def __init__(self, follows: Followed, common: Common) -> None:
        self.follows = follows
        self.since = 0
        """The sequence of the last message that is no longer owed to this connection."""
        self.slot = NO_SLOT
        """Its slot in the hub's wheel of heartbeats. Negative: it is not in the hub. Only the wheel changes
        it."""
        self.state = _WAITING
        """Only `_become` changes it."""
        self.record: StreamRecord | None = None
        """What is remembered of it, if anything is. It hears of nothing that a socket takes at once."""
        self._common = common
        self._channel: Channel | None = None  # while messages wait
        self._outlet: Outlet | None = None
        self._replay: Replay | None = None  # from `begin` until it is live
        self._owed: Owed | None = None

    @property
    def skips(self) -> frozenset[Target]:
        """Targets that a message of a partition may be for too, so that it comes from another partition."""
        return _NOTHING

    @property
    def begun(self) -> bool:
        """Whether it does not wait for `begin`."""
        return self.state is not _WAITING

    @property
    def catching_up(self) -> bool:
        """Whether `take_waiting` gives a replay, a page at a time."""
        return self.state is _CATCHING_UP

    @property
    def closed(self) -> bool:
        """Whether the stream has ended, or is about to when what waits has been taken."""
        return self.state is _CLOSED or self.state is _LEFT

    @property
    def behind(self) -> int | None:
        """Bytes that were written for the client and that it has not acknowledged. None: not known."""
        behind: int | None = getattr(self._outlet, "behind", None)  # of a socket
        return behind

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait for the client."""
        return self._channel is not None

    @property
    def untold(self) -> int:
        """Messages that were dropped, and of which no gap has told yet."""
        return self._owed.dropped if self._owed is not None else 0

    def attach(self, outlet: Outlet) -> None:
        """Let `outlet` send the stream. It ends at once if the connection was closed before."""
        self._outlet = outlet
        if self.catching_up or (self.closed and self._owed is not None):
            outlet.pull()
        if self.closed:
            outlet.close()

    def begin(
        self,
        preface: bytes,
        after: int,
        older: Iterable[bytes] = (),
        *,
        at: EntryId | None = None,
        rest: Rest | None = None,
        behind: bytes = b"",
        gap: bool = False,
    ) -> None:
        """Send the preface, then the messages in `older` and the words `behind` them, then the `rest` that is
        in the log, then every message after the sequence `after`, which is the log's entry `at`. `gap`:
        whether the preface declares what is missing before that.

        It is called again when the connection falls behind what is kept, and for each page of `rest`. A
        connection that the hub closed before sends the preface and ends.
        """
        if self.state is _CLOSED:
            self._owed = None
            self._keep_notice("end", preface)
        else:
            self._become(_CATCHING_UP)
            self.since = after
            common = self._common
            due = Due() if self._replay is None else self._replay.due
            due.goes_on(common.counters.balance, common.history, self, after, gap=gap)
            self._replay = Replay(preface, older, rest, at or common.history.at(after), due, behind)
        if self._outlet is not None:
            self._outlet.pull()

    def told_gap(self, reason: str) -> None:
        """The preface of `begin` is to have a gap."""
        add_to(self._common.counters.gaps, reason)

    def end(self, last_words: bytes = b"", why: str = "") -> None:
        """Send `last_words`, and close. `why`: see `ends`. Without it, it is the name of the notice.

        A live connection sends them after all that waits. One that catches up sends them after the pages that
        were taken: the client has their last id, and resumes from there.
        """
        if self.closed:
            return
        self.ends(why or event_name(last_words))
        if self.state is not _LIVE:
            if self._replay is not None:
                last_words = self._replay.preface + last_words
                self._replay.due.ends(self._common.counters.balance)
            self._replay = self._owed = None
            self._common.recovery.forget(self)
        self._become(_CLOSED)
        if last_words:
            self._say("end", Batch.notice(last_words))
        if self._channel is not None:
            self._channel[0].close()
        if self._outlet is not None:
            self._outlet.close()

    def ends(self, why: str) -> None:
        """It is about to end, or has. The first reason counts. "": the client left."""
        if self.record is not None:
            self.record.ends(why)

    def offer(self, batch: Batch) -> bool:
        """Take the messages of `batch` that are newer than `since`. Never waits.

        Whoever offers counts all of `batch` as published to this stream, and if this returns True, as taken
        at once. Whatever else becomes of it is counted here.
        """
        if self.state is not _LIVE:
            self._pass_by(batch)
            return False
        whole = True
        if batch.sequences[0] <= self.since:
            newer = batch.after(self.since)
            self._common.counters.balance.published -= batch.messages - (newer.messages if newer else 0)
            if newer is None:
                return False
            batch, whole = newer, False
        if self._outlet is not None and self._outlet.take(batch):
            self.since = batch.sequences[-1]
            if batch.receipts:
                for receipt in batch.receipts.values():
                    receipt.took += 1
            if whole:
                return True
            self._took(batch)
        else:
            self._queue_all(batch)
        return False

    def _pass_by(self, batch: Batch) -> None:
        """It is not live. If it is about to be, `batch` is part of its replay."""
        balance, replay = self._common.counters.balance, self._replay
        balance.published -= batch.messages
        if batch.receipts and not self.closed:
            for sequence, receipt in batch.receipts.items():
                receipt.buffered += 1
                mark = batch.marks.get(sequence) if batch.marks else None
                self._hold(sequence, receipt, math.inf if mark is None else mark.expires)
        if replay is not None and (newer := batch.after(replay.due.up_to)) is not None:
            replay.due.comes(balance, newer.last, newer.messages)

    def _took(self, batch: Batch) -> None:
        counters = self._common.counters
        counters.balance.direct += batch.messages
        counters.bytes_sent += len(batch.data)
        for sequence, mark in (batch.marks or {}).items():
            if mark.notice is not None and sequence >= batch.first:
                add_to(counters.gaps, mark.notice)

    def tell(self, kind: str, batch: Batch) -> None:
        """Send a notice. While the client is behind, the latest of each kind waits.

        Only a heartbeat has no place among the messages: it is sent before `begin`, and with the next page of
        a replay.
        """
        if self.state is _LIVE or (self.state is _WAITING and kind == HEARTBEAT):
            self._say(kind, batch)
        elif not self.closed:
            self._keep_notice(kind, batch.data)

    def take_waiting(self) -> bytes:
        """What waits, in order, a page at most while catching up. b"" when nothing does."""
        if self.state is _WAITING or self.state is _CATCHING_UP:
            data = self._page()
        else:
            parts: list[Part] = []
            messages = 0  # each of them is one item of the channel
            if self._channel is not None:
                try:
                    while True:
                        parts += self._channel[1].receive_nowait()
                        messages += 1
                except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    pass
            data = self._joined(parts, messages)
        self._common.counters.bytes_sent += len(data)
        return data

    def close(self, why: str = "") -> None:
        """End the stream without a notice. What waits may still be taken. Calling it again is harmless."""
        self.end(why=why)

    def leave(self) -> None:
        """Release everything: the client is gone. Calling it again is harmless.

        Outlet and connection refer to each other. Without this, both would stay in memory, with all that
        waits, until the garbage collector runs.
        """
        self.end()
        if self.state is _CLOSED:
            self._become(_LEFT)
        self._common.recovery.forget(self)
        if left := self._waiting:
            self._common.counters.balance.stream_ended += left
            self._common.counters.balance.owed -= left
        self._outlet = self._owed = None
        self.caught_up()

    @property
    def _waiting(self) -> int:
        """How many messages wait for the client."""
        waiting = 0 if self._owed is None else len(self._owed.latest)
        if self._channel is not None:
            waiting += self._channel[0].statistics().current_buffer_used
        return waiting

    def open_channel(self) -> Channel:
        """The memory channel in which messages wait: the present one, or a new one."""
        if self._channel is None:
            self._channel = _open_channel(self._common.capacity)
            if self.closed:
                self._channel[0].close()
        return self._channel

    def caught_up(self) -> None:
        """Nothing waits any more: release what waiting needed."""
        if self._channel is not None:
            for end in self._channel:
                end.close()
            self._channel = None

    def _become(self, state: State) -> None:
        assert self.state.may_become(state), f"a connection does not go from {self.state} to {state}"
        self.state = state

    def _page(self) -> bytes:
        data = self._owed.notices.pop(HEARTBEAT, b"") if self._owed is not None else b""
        while self._replay is not None and self.state is _CATCHING_UP:
            if part := self._part(self._replay):
                return data + part
        return data

    def _part(self, replay: Replay) -> bytes:
        """The next part of the replay. b"" if it is not in memory yet, or if all has been taken."""
        history, balance, due = self._common.history, self._common.counters.balance, replay.due
        older = len(replay.older)
        page = replay.page()
        if older:
            due.from_log(balance, older - len(replay.older))
        if len(page) >= PAGE_BYTES:
            return page
        if replay.rest is not None:
            self._become(_WAITING)
            self._common.recovery.fetch(self, replay.rest)
            return page
        if self.since < history.floor:
            self._become(_WAITING)
            self._common.recovery.fell_behind(self, replay.at)
            return page
        if self.since < history.latest:  # a new client has missed nothing
            due.catches_up(balance, history, self)
            kept = history.page(self.follows, self.since, skips=self.skips)
            due.from_memory(balance, kept)
            for reason in kept.gaps:
                add_to(self._common.counters.gaps, reason)
            self.since = kept.through
            page += kept.data
            if self.since < history.latest:
                if self.record is not None:
                    self.record.replays(self.since, history.now())
                replay.at = history.at(self.since)
                return page
        self._become(_LIVE)
        self._replay = None
        if self.record is not None:
            self.record.replays(self.since, history.now())
            self.record.is_live(self.since)
        due.is_complete(balance, history)
        return page + self._joined([], 0)

    def _say(self, kind: str, batch: Batch) -> None:
        if self._outlet is None or not self._outlet.take(batch):
            self._keep_notice(kind, batch.data)
        else:
            self._common.counters.bytes_sent += len(batch.data)

    def _keep_notice(self, kind: str, frame: bytes) -> None:
        if self._owed is None:
            self._owed = Owed()
        self._owed.notices[kind] = frame

    def _queue_all(self, batch: Batch) -> None:
        receipts, marks = batch.receipts, batch.marks
        numbered = zip(batch.frames, batch.sequences, strict=True)
        for place, (frame, sequence) in enumerate(numbered, 1):
            queued = self._queue(frame, sequence, marks.get(sequence) if marks else None)
            if receipts and sequence in receipts:
                receipts[sequence].buffered += queued
                receipts[sequence].dropped += not queued
                if queued:
                    self._hold(sequence, receipts[sequence])
            if not queued and marks is None:
                self._drop_rest(batch, place)
                return

    def _hold(self, sequence: int, receipt: Receipt, expires: float | None = None) -> None:
        """A message with a receipt waits, or will be replayed: see `StreamRecord.holds`."""
        if receipt.trace is not None and self.record is not None:
            self.record.holds(sequence, receipt.trace, expires)

    def _drop_rest(self, batch: Batch, place: int) -> None:
        """There was no room for the message before this place, so there is none for those that follow. A read
        of Redis may bring a thousand: one by one, for many slow clients, they would hold up everybody."""
        count = len(batch.sequences) - place
        if count and self.state is _LIVE and self._owed is not None:
            self._owed.drop(batch.last, after=self.since, count=count)
            self._drop(count)
            if self.record is not None:
                self.record.drops(batch.sequences[place], batch.last, count)
        elif self.state is not _LIVE:
            self._common.counters.balance.stream_ended += count
        for sequence, receipt in (batch.receipts or {}).items():
            if sequence > batch.sequences[place - 1]:
                receipt.dropped += 1

    def _queue(self, frame: bytes, sequence: int, mark: Mark | None) -> bool:
        """Let it wait. Returns whether there was room."""
        owed, common = self._owed, self._common
        balance = common.counters.balance
        if self.state is not _LIVE:  # an earlier frame of the same batch had no room
            balance.stream_ended += mark is None or mark.notice is None
            return False
        if mark is not None and mark.notice is not None:
            if owed is None or mark.notice not in owed.notices:
                add_to(common.counters.gaps, mark.notice)
            self._keep_notice(mark.notice, frame)
            self.since = sequence
            return True
        part = (sequence, frame, math.inf if mark is None else mark.expires)
        if mark is not None and mark.slot is not None:
            if owed is None:
                owed = self._owed = Owed()
            room = len(owed.latest) < MOST_SLOTS and owed.state_bytes + len(frame) <= MOST_STATE_BYTES
            if room or mark.slot in owed.latest:
                if self.record is not None:
                    if (older := owed.latest.get(mark.slot)) is not None:
                        self.record.supersedes(older[0])
                    self.record.waits(sequence)
                if owed.keep(mark.slot, part):
                    common.counters.superseded += 1
                    balance.superseded += 1
                else:
                    balance.owed += 1
                self.since = sequence
                return True
        channel = self._channel or self.open_channel()
        parts: tuple[Part, ...] = (part,)
        if owed is not None and _has_room(channel):  # what is owed may be much
            parts = (*owed.said(common.history, sequence, common.counters.gaps), part)
        try:
            channel[0].send_nowait(parts)
        except trio.WouldBlock:
            if common.disconnect:
                common.counters.disconnected += 1
                balance.stream_ended += 1
                self.close("slow_client")
                return False
            if owed is None:
                owed = self._owed = Owed()
            owed.drop(sequence, after=self.since)
            self._drop(1)
            if self.record is not None:
                self.record.drops(sequence, sequence, 1)
            return False
        self.since = sequence
        balance.owed += 1
        if self.record is not None:
            self.record.waits(sequence)
        if owed is not None:
            owed.was_said()
            if not owed.latest:
                self._owed = None
        return True

    def _drop(self, count: int) -> None:
        counters = self._common.counters
        counters.dropped += count
        counters.balance.dropped += count

    def _joined(self, parts: list[Part], messages: int) -> bytes:
        """`parts`, of which so many are messages, and all that is owed, in order, without what has
        expired."""
        common, owed = self._common, self._owed
        counters = common.counters
        if owed is not None:
            self._owed = None
            if owed.latest:
                parts += owed.latest.values()
                messages += len(owed.latest)
            parts += owed.said(common.history, NEWEST, counters.gaps)
            parts.sort(key=_sequence)
        now = common.history.now()
        frames = [frame for _, frame, expires in parts if expires > now]
        if messages:
            over = len(parts) - len(frames)
            counters.expired += over
            counters.balance.expired += over
            counters.balance.buffered += messages - over
            counters.balance.owed -= messages
        if (record := self.record) is not None:
            if len(frames) < len(parts):
                for sequence, _, expires in parts:
                    if expires <= now:
                        record.expires(sequence)
            record.takes()
        return b"".join(frames)


def _has_room(channel: Channel) -> bool:
    holds = channel[0].statistics()
    return holds.current_buffer_used < holds.max_buffer_size


_sequence = itemgetter(0)
