"""What a client gets before anything newer: a gap for what it lost, and the notices that wait."""

from __future__ import annotations

import math

from trio_sse.delivery.history import History
from trio_sse.delivery.marks import Part, Slot
from trio_sse.delivery.notices import gap


class Owed:
    """Belongs to one connection. Made when something has to wait, and dropped when it has been sent."""

    __slots__ = ("_first", "_last", "dropped", "latest", "notices")

    def __init__(self) -> None:
        self.notices: dict[str, bytes] = {}
        """The latest notice of each kind."""
        self.latest: dict[Slot, Part] = {}
        """The newest message of each slot, oldest first."""
        self.dropped = 0
        """Messages that had no room."""
        self._first = self._last = 0

    def drop(self, sequence: int, *, after: int, count: int = 1) -> None:
        """This message, and those right before it if `count` is more than one, had no room. `after` is the
        last one that had."""
        if not self.dropped:
            self._first = after
        self.dropped += count
        self._last = sequence

    def keep(self, slot: Slot, part: Part) -> bool:
        """Keep a message until the client takes it, or a newer one of its slot comes. Returns whether it took
        the place of an older one."""
        older = self.latest.pop(slot, None)
        self.latest[slot] = part
        return older is not None

    def said(self, history: History, before: int) -> list[Part]:
        """The gap and the notices, as they stand before the message `before`. The gap has the place of the
        last message that is missing."""
        said: list[Part] = []
        if self.dropped:
            replay_after = history.text(self._first) if self._first >= history.floor else None
            id = history.text(self._last)  # noqa: A001
            frame = gap("slow_client", self.dropped, id=id, replay_after=replay_after)
            said.append((self._last, frame, math.inf))
        if self.notices:
            said.append((before, b"".join(self.notices.values()), math.inf))
        return said

    def was_said(self) -> None:
        """The gap and the notices are on their way."""
        self.dropped = 0
        self.notices = {}
