"""What Redis accepted, what a client saw, and whether the two agree to the last message. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

Lane = Literal["channel", "stream"]
"""The way of a message into the service. Between lanes no order is promised, within each it is."""

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Seen:
    """A client saw the message with this number."""

    serial: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """A client was told that messages are missing here; how many, if that was said."""

    reason: str
    dropped: int | None = None


Sight = Seen | Gap


@dataclass(slots=True)
class Count:
    """Messages, each counted once for every client it was for."""

    published: int = 0
    live: int = 0
    replayed: int = 0
    covered: int = 0
    """Missing, and a gap stands in their place."""
    lost: int = 0
    """Missing in silence."""
    duplicated: int = 0
    disordered: int = 0
    miscounted: int = 0
    """Gaps that gave a number which is not the number missing there."""
    foreign: int = 0
    """Never published, or for somebody else."""
    gaps: int = 0

    @property
    def faults(self) -> int:
        return self.lost + self.duplicated + self.disordered + self.miscounted + self.foreign

    @property
    def exact(self) -> bool:
        """Whether every message is accounted for once, and nothing else was seen."""
        return not self.faults and self.published == self.live + self.replayed + self.covered

    def add(self, other: Count) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Ledger:
    """Every attempt to publish has a number of its own, so a publisher that tries again makes no duplicate.

    An attempt ends as accepted, or as void: refused, or nobody knows. Clients may see a void one or not.
    """

    def __init__(self, users: Iterable[str]) -> None:
        self.accepted = 0
        self._expected: dict[str, dict[Lane, list[int]]] = {
            user: {"channel": [], "stream": []} for user in users
        }
        self._serial = 0
        self._void: dict[int, str] = {}

    def attempt(self, user: str) -> int:
        """A number for the next attempt. It is void until it is accepted."""
        self._serial += 1
        self._void[self._serial] = user
        return self._serial

    def accept(self, serial: int, lane: Lane) -> None:
        """Redis has it. Call this in the order in which Redis has them."""
        user = self._void.pop(serial)
        self.accepted += 1
        for name in self._expected if user == EVERYBODY else (user,):
            self._expected[name][lane].append(serial)

    def count(self, user: str, sights: Iterable[Sight]) -> Count:
        """Compare what a client of `user` saw, in its order, with what it was to see."""
        count = Count()
        tracks = [_Track(serials) for serials in self._expected[user].values() if serials]
        place = {serial: (track, at) for track in tracks for at, serial in enumerate(track.serials)}
        unsure = {serial for serial, whose in self._void.items() if whose in (user, EVERYBODY)}
        void: set[int] = set()
        # What the gaps since the last message said, together. None if one of them did not know.
        said: int | None = 0
        for sight in sights:
            if isinstance(sight, Gap):
                count.gaps += 1
                said = None if said is None or sight.dropped is None else said + sight.dropped
                for track in tracks:
                    track.declared = True
            elif sight.serial in place:
                track, at = place[sight.serial]
                track.see(at, sight.replayed, count)
                if said and len(tracks) == 1 and not 0 <= said - track.just_missed <= len(unsure):
                    count.miscounted += 1
                said = 0
            elif sight.serial not in unsure:
                count.foreign += 1
            elif sight.serial in void:
                count.duplicated += 1
            else:
                void.add(sight.serial)
        for track in tracks:
            track.miss(len(track.serials), count)
            count.published += len(track.serials)
        return count


class _Track:
    """The messages of one lane, and how far a client has come."""

    def __init__(self, serials: list[int]) -> None:
        self.serials = serials
        self.declared = False
        self.just_missed = 0
        self._next = 0
        self._seen: set[int] = set()

    def see(self, at: int, replayed: bool, count: Count) -> None:
        self.just_missed = 0
        if at in self._seen:
            count.duplicated += 1
            return
        self._seen.add(at)
        if at < self._next:
            count.disordered += 1
            return
        self.miss(at, count)
        self._next = at + 1
        if replayed:
            count.replayed += 1
        else:
            count.live += 1

    def miss(self, until: int, count: Count) -> None:
        """All from where the client is up to `until` are missing."""
        self.just_missed = until - self._next
        if self.declared:
            count.covered += self.just_missed
        else:
            count.lost += self.just_missed
        self.declared = False
