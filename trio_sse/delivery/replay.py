"""What a connection gets before it is live, a page at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from trio_sse.delivery.due import Due
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import PAGE_BYTES


class Rest(NamedTuple):
    """The part of a replay that is still in the log, and is fetched a page at a time."""

    after: EntryId
    """How far the log has been read for this connection."""
    top: EntryId
    """The log's last entry that belongs to the replay."""
    sequence: int
    """After this sequence, memory goes on."""
    broken_off: EntryId
    """The last break of the log that the connection knows of."""
    pace: int
    """How many entries to read at first: about as many as the page before took."""


_NONE: deque[bytes] = deque(maxlen=0)  # nearly every client has nothing in the log


class Replay:
    """What comes before memory: a preface, messages from the log or of a snapshot, words behind them, and the
    rest that is still in the log. `due` is what memory is to give after all that."""

    __slots__ = ("at", "behind", "due", "older", "preface", "rest")

    def __init__(
        self,
        preface: bytes,
        older: Iterable[bytes],
        rest: Rest | None,
        at: EntryId | None,
        due: Due,
        behind: bytes = b"",
    ) -> None:
        self.preface = preface
        """The greeting and the gap, until they are taken."""
        self.older = deque(older) if older else _NONE
        """Messages, each one frame."""
        self.behind = behind
        """What stands behind all of them, until it is taken."""
        self.due = due
        self.rest = rest
        self.at = at
        """The log's entry that the connection has reached in memory. None if that is not known."""

    def page(self) -> bytes:
        """The next bytes that are here. Less than PAGE_BYTES: these were the last."""
        parts, size = [self.preface], len(self.preface)
        self.preface = b""
        while self.older and size < PAGE_BYTES:
            parts.append(self.older.popleft())
            size += len(parts[-1])
        if not self.older and size < PAGE_BYTES:
            parts.append(self.behind)
            self.behind = b""
        return b"".join(parts)
