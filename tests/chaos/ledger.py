"""What Redis accepted, what a client saw, and whether the two agree to the last message. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

from tests.chaos.keys import EVERYBODY, Keys

Lane = Literal["channel", "stream"]
"""The way of a message into the service. Between lanes no order is promised, within each it is."""

CLOCKS = 0.1
"""Seconds by which the clocks of Redis, the service and the clients may differ."""


@dataclass(frozen=True, slots=True)
class Message:
    """What an attempt sends. Times are on the clock of the clients."""

    keys: Keys
    state: str = ""
    """What it is the state of, if it is: a newer one for the same keys may take its place."""
    sent: float = 0
    expires: float = math.inf


@dataclass(frozen=True, slots=True)
class Seen:
    """A client saw the message with this number."""

    serial: int
    replayed: bool = False
    at: float = math.inf
    """When."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A client was told that messages are missing here; how many, if that was said."""

    reason: str
    dropped: int | None = None
    at: float = math.inf
    """When."""


Sight = Seen | Gap


@dataclass(slots=True)
class Count:
    """Messages, each counted once for every client it was for."""

    published: int = 0
    live: int = 0
    replayed: int = 0
    covered: int = 0
    """Missing, and a gap stands in their place."""
    superseded: int = 0
    """Missing, and a newer one had been sent when the client saw what came next."""
    expired: int = 0
    """Missing, and over when the client saw what came next."""
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
        seen = self.live + self.replayed
        return not self.faults and self.published == seen + self.covered + self.superseded + self.expired

    def add(self, other: Count) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Ledger:
    """Every attempt to publish has a number of its own, so a publisher that tries again makes no duplicate.

    An attempt ends as accepted, or as void: refused, in doubt, or nobody knows. Clients may see a void one or
    not. A message for several keys is for all who follow one of them, once.

    `by_key`: no order is promised but among the messages for one key alone, as each has a channel of its own
    somewhere in a cluster.
    """

    def __init__(self, *, by_key: bool = False) -> None:
        self.accepted = 0
        self.late_gaps: float = 0
        """Seconds by which a gap may come behind a message that is newer than what it stands for."""
        self._ordered_by_key = by_key
        self._messages: dict[int, Message] = {}
        self._void: set[int] = set()
        self._places: dict[int, int] = {}
        self._by_key: dict[Lane, dict[str, list[int]]] = {
            "channel": defaultdict(list),
            "stream": defaultdict(list),
        }

    def attempt(self, message: Message) -> int:
        """A number for the next attempt. It is void until it is accepted."""
        serial = len(self._messages) + 1
        self._messages[serial] = message
        self._void.add(serial)
        return serial

    def accept(self, serial: int, lane: Lane) -> None:
        """Redis has it. Call this in the order in which Redis has them."""
        self._void.remove(serial)
        self._places[serial] = self.accepted
        self.accepted += 1
        for key in self._messages[serial].keys:
            self._by_key[lane][key].append(serial)

    def doubt(self, serial: int, lane: Lane) -> None:
        """Redis had accepted it, and it may be that the Redis that others followed from then on did not have
        it, or later: it is void."""
        if self._places.pop(serial, None) is not None:
            self._void.add(serial)
            for key in self._messages[serial].keys:
                self._by_key[lane][key].remove(serial)

    def count(self, follows: Keys, sights: Iterable[Sight]) -> Count:
        """Compare what a client that follows these keys saw, in its order, with what it was to see."""
        count, keys = Count(), {*follows, EVERYBODY}
        tracks = [track for track in self._tracks(keys) if track.serials]
        place = {serial: (track, at) for track in tracks for at, serial in enumerate(track.serials)}
        unsure = {serial for serial in self._void if not keys.isdisjoint(self._messages[serial].keys)}
        void: set[int] = set()
        # What the gaps since the last message said, together. None if one of them did not know.
        said: int | None = 0
        for sight in sights:
            if isinstance(sight, Gap):
                count.gaps += 1
                said = None if said is None or sight.dropped is None else said + sight.dropped
                for track in tracks:
                    track.declare(sight.at, count)
            elif sight.serial in place:
                track, at = place[sight.serial]
                track.see(at, sight, count)
                if said and len(tracks) == 1:
                    more = said - track.just_missed
                    count.miscounted += not 0 <= more <= len(unsure) + track.just_excused
                said = 0
            elif sight.serial not in unsure:
                count.foreign += 1
            elif sight.serial in void:
                count.duplicated += 1
            else:
                void.add(sight.serial)
        for track in tracks:
            track.miss(len(track.serials), math.inf, count)
            count.published += len(track.serials)
        return count

    def _tracks(self, keys: Iterable[str]) -> Iterator[_Track]:
        for by_key in self._by_key.values():
            serials = {serial for key in keys for serial in by_key.get(key, ())}
            in_order = sorted(serials, key=self._places.__getitem__)
            if not self._ordered_by_key:
                yield _Track(in_order, self._messages, self.late_gaps)
                continue
            alone: dict[str, list[int]] = defaultdict(list)
            for serial in in_order:
                if len(self._messages[serial].keys) == 1:
                    alone[self._messages[serial].keys[0]].append(serial)
                else:
                    yield _Track([serial], self._messages, self.late_gaps)
            for own in alone.values():
                yield _Track(own, self._messages, self.late_gaps)


class _Track:
    """The messages of one lane, and how far a client has come."""

    def __init__(self, serials: list[int], messages: dict[int, Message], late_gaps: float) -> None:
        self.serials = serials
        self._late_gaps = late_gaps
        self._untold = 0
        self._untold_since = -math.inf
        self.declared = False
        self.just_missed = 0
        """Messages that a gap must have counted, just before the last one seen."""
        self.just_excused = 0
        """Superseded and expired ones there."""
        self._next = 0
        self._seen: set[int] = set()
        own = [messages[serial] for serial in serials]
        self._since = own[0].sent if own else math.inf
        self._expires = [message.expires for message in own]
        self._renewed = _renewed(own)

    def declare(self, at: float, count: Count) -> None:
        """A gap says that messages are missing: none of those that were sent later."""
        if at + CLOCKS >= self._since:
            self.declared = True
            if at - self._untold_since <= self._late_gaps:
                count.lost -= self._untold
                count.covered += self._untold
            self._untold = 0

    def see(self, at: int, sight: Seen, count: Count) -> None:
        if at in self._seen:
            count.duplicated += 1
            return
        self._seen.add(at)
        if at < self._next:
            count.disordered += 1
            return
        self.miss(at, sight.at, count)
        self._next = at + 1
        if sight.replayed:
            count.replayed += 1
        else:
            count.live += 1

    def miss(self, until: int, now: float, count: Count) -> None:
        """All from where the client is up to `until` are missing. It sees what comes next `now`."""
        self.just_missed = 0
        missing = range(self._next, until)
        for at in missing:
            if self._renewed[at] < now:
                count.superseded += 1
            elif self._expires[at] < now + CLOCKS:
                count.expired += 1
            else:
                self.just_missed += 1
        self.just_excused = len(missing) - self.just_missed
        if self.declared:
            count.covered += self.just_missed
        else:
            count.lost += self.just_missed
            if self.just_missed and now < math.inf:
                self._untold, self._untold_since = self.just_missed, now
        self.declared = False


def _renewed(messages: list[Message]) -> list[float]:
    """When a newer one of the same state was sent, for each."""
    newest: dict[tuple[Keys, str], float] = {}
    times = []
    for message in reversed(messages):
        state = (message.keys, message.state)
        times.append(newest.get(state, math.inf) if message.state else math.inf)
        newest[state] = message.sent
    return times[::-1]
