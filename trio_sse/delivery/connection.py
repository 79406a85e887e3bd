"""One browser: what it is sent, what waits for it, what it lost."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import trio

from trio_sse.counters import Counters
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import PAGE_BYTES, History
from trio_sse.delivery.notices import gap
from trio_sse.delivery.outlet import Outlet

HEARTBEAT = "heartbeat"
"""The kind of what a connection may be told at any time."""

_open_channel = trio.open_memory_channel[bytes]


class Rest(NamedTuple):
    """What of a replay is still in the Redis stream, and is fetched a page at a time."""

    after: EntryId
    """How far the stream has been looked through for this connection."""
    top: EntryId
    """The entry up to which the stream is to tell."""
    sequence: int
    """The sequence from which on memory does."""
    broken_off: EntryId
    """The last break of the stream that the connection knows of."""
    pace: int
    """How many entries to read at first: about as many as the page before took."""


class Recovery(Protocol):
    """Knows what to do for a connection whose next messages are not in memory."""

    def fell_behind(self, connection: Connection, at: EntryId | None) -> None:
        """Let `connection`, which has come to the stream's entry `at`, go on by `begin`, now or later."""
        ...

    def fetch(self, connection: Connection, rest: Rest) -> None:
        """Let `connection` go on by `begin` with the next page of `rest`, later."""
        ...

    def forget(self, connection: Connection) -> None:
        """It has left, and waits for `begin` no longer."""
        ...


class Connection:
    """A stream of one user, from joining the hub to leaving it.

    Everything but the outlet's own task is synchronous and never waits: a slow client costs nobody else
    anything. Until `begin` it is told nothing but heartbeats. Then it catches up with what is kept, as
    quickly as its outlet takes it, and after that it is live: while the outlet takes nothing, up to
    `capacity` messages wait in a memory channel; those beyond are dropped, counted, and declared by a `gap`
    in the place where they are missing. With `disconnect` the stream ends instead, and the client comes back
    for the rest. So it does when the stream ends while it catches up.
    """

    __slots__ = (
        "__weakref__", "_ahead", "_at", "_counters", "_disconnect", "_dropped", "_first_dropped", "_history",
        "_last_dropped", "_live", "_notices", "_outlet", "_recovery", "_rest", "_said", "channel", "closed",
        "id", "since", "user_id", "waiting",
    )  # fmt: skip

    def __init__(
        self, user_id: str, capacity: int, counters: Counters, history: History, recovery: Recovery, *,
        disconnect: bool = False,
    ) -> None:  # fmt: skip
        self.user_id = user_id
        self.id = f"{random.getrandbits(64):016x}"
        self.since = 0
        """The number of the last message that is no longer owed to this connection."""
        self.closed = False
        self.channel, self.waiting = _open_channel(capacity)
        self._outlet: Outlet | None = None
        self._history = history
        self._recovery = recovery
        self._disconnect = disconnect
        self._live = False
        # While it catches up: what it is told first, the rest of a page out of the stream, and what is in the
        # stream still. `_ahead` is None while it waits for its place or for a page.
        self._said = b""
        self._ahead: deque[bytes] | None = None
        self._rest: Rest | None = None
        self._at: EntryId | None = None
        self._dropped = self._first_dropped = self._last_dropped = 0
        self._notices: dict[str, bytes] = {}
        self._counters = counters

    @property
    def begun(self) -> bool:
        """Whether it is known what comes first."""
        return self._ahead is not None

    @property
    def catching_up(self) -> bool:
        """Whether there is more for `take_waiting` to give, a page at a time."""
        return not self._live and self._ahead is not None

    def attach(self, outlet: Outlet) -> None:
        """Let `outlet` carry the stream. One that was closed before ends at once."""
        self._outlet = outlet
        if self.catching_up or self.closed:
            outlet.pull()
        if self.closed:
            outlet.close()

    def begin(
        self,
        said: bytes,
        after: int,
        older: Iterable[bytes] = (),
        *,
        at: EntryId | None = None,
        rest: Rest | None = None,
    ) -> None:
        """Say this first, then what is `older` and the `rest` that is in the stream, then every message after
        the number `after`, or the stream's entry `at`.

        A connection that fell behind what is kept begins so again, and so it does with each page of `rest`.
        """
        self.since = after
        self._at = at or self._history.at(after)
        self._said += said
        self._ahead = deque(older)
        self._rest = rest
        if self.closed:
            self._notices["end"] = self._skip_what_is_ahead()
        if self._outlet is not None:
            self._outlet.pull()

    def end(self, last_words: bytes = b"") -> None:
        """Say this last, and close.

        One that is live gets it after all that waits. One that catches up gets it after what it has taken:
        the id of that is the last it has, so that it comes back for what was ahead.
        """
        if self.closed:
            return
        if not self._live:
            last_words = self._skip_what_is_ahead() + last_words
        if last_words:
            self.tell("end", Batch.notice(last_words))
        self.closed = True
        self.channel.close()
        if self._outlet is not None:
            self._outlet.close()

    def offer(self, batch: Batch) -> None:
        """Take the messages of `batch` that are newer than this connection. Never waits."""
        if self.closed:
            return
        if not self._live:
            if batch.receipts:
                for receipt in batch.receipts.values():
                    receipt.buffered += 1  # it is part of the replay
            return
        if batch.first <= self.since:
            newer = batch.after(self.since)
            if newer is None:
                return
            batch = newer
        if self._outlet is not None and self._outlet.take(batch):
            self.since = batch.last
            if batch.receipts:
                for receipt in batch.receipts.values():
                    receipt.took += 1
        else:
            for frame, sequence in zip(batch.frames, batch.sequences, strict=True):
                queued = self._queue(frame, sequence)
                if batch.receipts and sequence in batch.receipts:
                    batch.receipts[sequence].buffered += queued
                    batch.receipts[sequence].dropped += not queued

    def tell(self, kind: str, batch: Batch) -> None:
        """Say something of the service's own. While the client is behind, the latest of each kind waits.

        Only a heartbeat has no place among the messages: it goes out before `begin`, and with the next page
        of a replay.
        """
        if self.closed:
            return
        now = self._live or (kind == HEARTBEAT and not self.begun)
        if not now or self._outlet is None or not self._outlet.take(batch):
            self._notices[kind] = batch.data

    def tell_marked(self, kind: str, batch: Batch) -> None:
        """Say what the history keeps as well: those who catch up find it there, in its place."""
        if self._live:
            self.tell(kind, batch)

    def take_waiting(self) -> bytes:
        """What waits, in order, a page at most while catching up. b"" when nothing does."""
        if not self._live:
            return self._page()
        parts: list[bytes] = []
        try:
            while True:
                parts.append(self.waiting.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        parts.append(self._owed())
        self._settle()
        return b"".join(parts)

    def close(self) -> None:
        """End the stream without a word. What waits may still be taken. Calling it again is harmless."""
        self.end()

    def leave(self) -> None:
        """Let go of everything: the client is gone. Nothing can be taken any more.

        Outlet and connection know each other. Without this, both would stay until the garbage collector
        comes, with all that waits.
        """
        self.end()
        self._recovery.forget(self)
        self._outlet = None
        self._notices.clear()
        self._dropped = 0
        self.waiting.close()

    def _page(self) -> bytes:
        data = self._notices.pop(HEARTBEAT, b"")
        while self._ahead is not None:
            if part := self._part():
                return data + part
            if self._live:
                break
        return data

    def _part(self) -> bytes:
        """The next part of what is ahead. b"" if it has to be waited for, or if all has been taken."""
        parts, size = [self._said], len(self._said)
        self._said = b""
        while self._ahead and size < PAGE_BYTES:
            parts.append(self._ahead.popleft())
            size += len(parts[-1])
        if size < PAGE_BYTES:
            parts.append(self._go_on())
        return b"".join(parts)

    def _go_on(self) -> bytes:
        """What follows what was `_ahead`, out of memory. Out of the stream it comes later."""
        history = self._history
        if self._rest is not None:
            rest, self._rest, self._ahead = self._rest, None, None
            self._recovery.fetch(self, rest)
            return b""
        if self.since < history.floor:
            self._ahead = None
            self._recovery.fell_behind(self, self._at)
            return b""
        page, self.since = history.page(self.user_id, self.since)
        if self.since < history.latest:
            self._at = history.at(self.since)
            return page
        self._live = True
        page += self._owed()
        self._settle()
        return page

    def _skip_what_is_ahead(self) -> bytes:
        """Be live at once. Returns what is to be said before anything else."""
        said, self._said = self._said, b""
        self._ahead = self._rest = None
        self._live = True
        self._notices.clear()
        self._recovery.forget(self)
        return said

    def _queue(self, frame: bytes, sequence: int) -> bool:
        """Let it wait in the channel. Returns whether there was room."""
        try:
            self.channel.send_nowait(self._owed() + frame)
        except trio.WouldBlock:
            if self._disconnect:
                self._counters.disconnected += 1
                self.close()
                return False
            if not self._dropped:
                self._first_dropped = self.since
            self._dropped += 1
            self._last_dropped = sequence
            self._counters.dropped += 1
        except trio.ClosedResourceError:
            pass  # an earlier frame of the same batch was one too many
        else:
            self.since = sequence
            self._settle()
            return True
        return False

    def _owed(self) -> bytes:
        """What the client is to be told before anything newer: the gap first, since it is the oldest."""
        if not self._dropped and not self._notices:
            return b""
        said = b"".join(self._notices.values())
        if not self._dropped:
            return said
        history = self._history
        return (
            gap(
                "slow_client",
                self._dropped,
                id=history.text(self._last_dropped),
                replay_after=history.text(self._first_dropped)
                if self._first_dropped >= history.floor
                else None,
            )
            + said
        )

    def _settle(self) -> None:
        self._dropped = 0
        self._notices.clear()
