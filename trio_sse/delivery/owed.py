"""What a client gets before anything newer: gaps for what it lost, the newest of each key, and the notices
that wait."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from trio_sse.delivery.history import History
from trio_sse.delivery.marks import Part, Slot
from trio_sse.delivery.notices import gap


@dataclass(slots=True)
class _Gap:
    after: int
    """The last message before it that had room."""
    last: int
    """The last message that is missing."""
    dropped: int = 1


class Owed:
    """Belongs to one connection. Made when something has to wait, and dropped when it has been sent."""

    __slots__ = ("_gaps", "latest", "notices")

    def __init__(self) -> None:
        self.notices: dict[str, bytes] = {}
        """The latest notice of each kind."""
        self.latest: dict[Slot, Part] = {}
        """The newest message of each slot, oldest first."""
        self._gaps: list[_Gap] = []

    def drop(self, sequence: int, *, after: int) -> None:
        """This message had no room. `after` is the last one that had.

        What waits in a slot parts two gaps: a client that is cut off behind it must have been told of what is
        missing before it.
        """
        gaps = self._gaps
        if gaps and not (self.latest and next(reversed(self.latest.values()))[0] > gaps[-1].last):
            gaps[-1].last = sequence
            gaps[-1].dropped += 1
            return
        gaps.append(_Gap(after, sequence))
        if len(gaps) > 2 * len(self.latest) + 2:
            self._join_gaps()

    def keep(self, slot: Slot, part: Part) -> bool:
        """Keep a message until the client takes it, or a newer one of its slot comes. Returns whether it took
        the place of an older one."""
        older = self.latest.pop(slot, None)
        self.latest[slot] = part
        return older is not None

    def said(self, history: History, before: int) -> list[Part]:
        """The gaps and the notices, as they stand before the message `before`. A gap has the place of the
        last message that is missing."""
        self._join_gaps()
        said: list[Part] = []
        for one in self._gaps:
            replay_after = history.text(one.after) if one.after >= history.floor else None
            id = history.text(one.last)  # noqa: A001
            frame = gap("slow_client", one.dropped, id=id, replay_after=replay_after)
            said.append((one.last, frame, math.inf))
        if self.notices:
            said.append((before, b"".join(self.notices.values()), math.inf))
        return said

    def was_said(self) -> None:
        """The gaps and the notices are on their way."""
        self._gaps = []
        self.notices = {}

    def _join_gaps(self) -> None:
        """Make one of gaps between which nothing waits any more."""
        if len(self._gaps) < 2:
            return
        waiting = [sequence for sequence, _, _ in self.latest.values()]
        joined = self._gaps[:1]
        for one in self._gaps[1:]:
            if bisect_left(waiting, joined[-1].last) == bisect_left(waiting, one.last):
                joined[-1].last = one.last
                joined[-1].dropped += one.dropped
            else:
                joined.append(one)
        self._gaps = joined
