"""What a client gets before anything newer: gaps for what it lost, and the notices that wait."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from trio_sse.counters import add_to
from trio_sse.delivery.history import History
from trio_sse.delivery.marks import Part, Slot
from trio_sse.delivery.notices import gap


@dataclass(slots=True)
class _Lost:
    """Messages that had no room, with none that is kept between them."""

    after: int
    """The last message before them that had room."""
    last: int
    count: int


class Owed:
    """Belongs to one connection. Made when something has to wait, and dropped when it has been sent."""

    __slots__ = ("_lost", "_newest", "latest", "notices", "state_bytes")

    def __init__(self) -> None:
        self.notices: dict[str, bytes] = {}
        """The latest notice of each kind."""
        self.latest: dict[Slot, Part] = {}
        """The newest message of each slot, oldest first."""
        self.state_bytes = 0
        """Bytes of all of them."""
        self._lost: list[_Lost] = []
        self._newest = 0  # of `latest`

    @property
    def dropped(self) -> int:
        """How many messages had no room."""
        return sum([lost.count for lost in self._lost])

    def drop(self, sequence: int, *, after: int, count: int = 1) -> None:
        """This message, and those right before it if `count` is more than one, had no room. `after` is the
        last one that had."""
        lost = self._lost
        if lost and self._newest < lost[-1].last:
            lost[-1].last = sequence
            lost[-1].count += count
            return
        if len(lost) > 2 * len(self.latest):
            self._join_lost()
        self._lost.append(_Lost(after, sequence, count))

    def keep(self, slot: Slot, part: Part) -> bool:
        """Keep a message until the client takes it, or a newer one of its slot comes. Returns whether it took
        the place of an older one."""
        older = self.latest.pop(slot, None)
        self.latest[slot] = part
        self.state_bytes += len(part[1]) - (len(older[1]) if older else 0)
        self._newest = part[0]
        return older is not None

    def said(self, history: History, before: int, gaps: dict[str, int]) -> list[Part]:
        """The gaps and the notices, as they stand before the message `before`. A gap has the place of the
        last message that is missing there: a client that is cut off behind it resumes after that one. Counts
        them in `gaps`."""
        said: list[Part] = []
        self._join_lost()
        for lost in self._lost:
            replay_after = history.text(lost.after) if lost.after >= history.floor else None
            id = history.text(lost.last)  # noqa: A001
            frame = gap("slow_client", lost.count, id=id, replay_after=replay_after)
            said.append((lost.last, frame, math.inf))
        if self._lost:
            add_to(gaps, "slow_client", len(self._lost))
        if self.notices:
            said.append((before, b"".join(self.notices.values()), math.inf))
        return said

    def was_said(self) -> None:
        """The gaps and the notices are on their way."""
        self._lost = []
        self.notices = {}

    def _join_lost(self) -> None:
        """Make one gap of those between which nothing is kept any more."""
        if len(self._lost) < 2:
            return
        kept = [part[0] for part in self.latest.values()]
        joined: list[_Lost] = []
        for lost in self._lost:
            if joined and bisect_right(kept, joined[-1].last) == bisect_right(kept, lost.last):
                joined[-1].last = lost.last
                joined[-1].count += lost.count
            else:
                joined.append(lost)
        self._lost = joined
