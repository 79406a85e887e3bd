"""Who is at this node → what Redis is to have of it. Synchronous, no I/O."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from trio_sse.delivery.targets import Followed, Target, each, user_of

PARTITIONS = 16
"""Parts that Redis has the records in. All nodes must have the same number."""

COUNT_SECONDS = 60.0
"""How often the number of streams of one record is written at the most, while it is there."""

FIRST_COUNT_SECONDS = 2.0
"""How soon the first change of that number is written: a browser that opens its tabs again has all of them
by then."""

REGRACE_SECONDS = 10.0
"""Grace at the least for those who left while Redis was away and lost its data. By then all nodes have
written theirs anew, and the last one to have a user tells that it is gone."""

ROUND = 80
"""Each record is written again once in so many calls of `refresh`, whatever happened to the one in Redis."""

Record = Target | tuple[Target, Target]
"""A user or a topic that is here, or a topic and a user who follows it here."""

GONE = -1

QUIET, TELL, UNSURE = "q", "t", "u"


class Change(NamedTuple):
    """A record to be written."""

    record: Record
    streams: int
    """How many it has here. 0: it has left, and may come back within the grace. GONE: it is to be removed."""
    how: str
    """TELL: whoever comes first or goes last is told. UNSURE: also if this change was made already, as an
    earlier attempt had no answer. QUIET: nobody is told, since everybody was."""


def partition_of(target: Target) -> int:
    """The partition of a user, of a topic, and of all who follow the topic."""
    return zlib.crc32(target.encode()) % PARTITIONS


class Roll:
    """The records of one partition: what they are to be, and what Redis has.

    Whoever comes is written at once, together with all others of that moment; whoever leaves, when the grace
    is over; numbers of streams, once in COUNT_SECONDS.
    """

    def __init__(self, count: Callable[[Record], int], clock: Callable[[], float], grace: float) -> None:
        self._count = count
        self._clock = clock
        self._grace = grace
        self.told: dict[Record, int] = {}
        """What Redis has, as far as is known."""
        self.changed = asyncio.Event()
        """Set when there may be something to write, or a time to wait for."""
        self._queue: dict[Record, None] = {}
        self._leaving: dict[Record, float] = {}  # until when they may come back, the first to go first
        self._sent: dict[Record, Change] = {}
        self._unsure: dict[Record, bool] = {}  # whether it was to be removed
        self._forced: set[Record] = set()
        self._quiet: set[Record] = set()
        self._soon: dict[Record, float] = {}
        self._counted: dict[Record, float] = {}  # when its number was written last, the oldest first
        self._again: set[Record] = set()
        self._turn: list[Record] = []
        self._to_refresh = 0.0

    # What streams do.

    def came(self, record: Record) -> None:
        """It has one more stream here."""
        self._leaving.pop(record, None)
        sent = self._sent.get(record)
        known = record in self.told if sent is None else sent.streams != GONE
        if known:
            self._number(record)
        else:
            self._queue[record] = None
            self.changed.set()

    def left(self, record: Record) -> None:
        """It has one stream less here."""
        if self._count(record):
            self._number(record)
        elif record in self.told or record in self._sent or record in self._unsure:
            self._leaving[record] = self._clock() + self._grace
            self.changed.set()
        else:
            self._queue.pop(record, None)  # it was not even written

    def _number(self, record: Record) -> None:
        if record in self._counted:
            self._again.add(record)
        else:
            self._soon.setdefault(record, self._clock() + FIRST_COUNT_SECONDS)
        self.changed.set()

    # What is written.

    @property
    def next_due(self) -> float:
        """When `take` is to be called again, on the clock, if nothing changes."""
        if self._queue:
            return self._clock()
        return self._clock() + 1 if self._leaving or self._soon or self._again else math.inf

    def take(self, most: int) -> list[Change]:
        """The next changes. They are under way until `written` or `not_written`."""
        self._look_at_clock()
        for record in list(islice(self._queue, most)):
            del self._queue[record]
            change = self._change(record)
            if change is not None:
                self._sent[record] = change
        return list(self._sent.values())

    def _change(self, record: Record) -> Change | None:
        streams = self._count(record)
        if not streams and record not in self._leaving:
            if record not in self.told and record not in self._unsure:
                return None
            streams = GONE
        unsure = self._unsure.get(record)
        has = None if record in self._forced or unsure is not None else self.told.get(record)
        if has is not None and streams in (0, has):
            return None
        how = TELL
        if record in self._quiet:
            how = QUIET
        elif unsure is not None and unsure == (streams == GONE):
            how = UNSURE
        return Change(record, streams, how)

    def _look_at_clock(self) -> None:
        now = self._clock()
        for record in _until(self._leaving, now):
            del self._leaving[record]
            self._queue[record] = None
        for record in _until(self._counted, now - COUNT_SECONDS):
            del self._counted[record]
            if record in self._again:
                self._again.remove(record)
                self._soon.setdefault(record, now)
        for record in _until(self._soon, now):
            del self._soon[record]
            self._counted[record] = now
            self._queue[record] = None

    def written(self) -> None:
        """Redis has what was taken."""
        for record, change in self._sent.items():
            if change.streams == GONE:
                self.told.pop(record, None)
            else:
                self.told[record] = change.streams
            self._unsure.pop(record, None)
            self._forced.discard(record)
            self._quiet.discard(record)
        self._sent.clear()

    def not_written(self) -> None:
        """It is not known whether Redis has what was taken. It is taken again."""
        for record, change in self._sent.items():
            gone = change.streams == GONE
            if gone or record not in self.told:
                self._unsure[record] = gone
            else:
                self._forced.add(record)
            self._queue[record] = None
        self._sent.clear()

    # What becomes of Redis.

    def anew(self) -> None:
        """Write everything again: Redis was away, or others took this node for dead."""
        self._forced.update(self.told)
        self._queue.update(dict.fromkeys(self.told))
        self.changed.set()

    def wiped(self) -> None:
        """Write everything again: Redis has lost its data. Nobody is told again, and who left meanwhile
        leaves now."""
        self.anew()
        self._quiet.update(self.told)
        self._leaving.clear()
        ends = self._clock() + max(self._grace, REGRACE_SECONDS)
        self._leaving.update((record, ends) for record in self.told if not self._count(record))

    def refresh(self) -> None:
        """Write some again."""
        if not self._turn:
            self._turn = list(self.told)
        self._to_refresh += len(self.told) / ROUND
        count = int(self._to_refresh)
        self._to_refresh -= count
        taken, self._turn = self._turn[:count], self._turn[count:]
        again = [record for record in taken if record in self.told]
        self._forced.update(again)
        self._queue.update(dict.fromkeys(again))


class Attendance:
    """What the hub tells of its streams, record by record, in partitions.

    A stream without a user, which is one of public topics alone, counts for its topics.
    """

    def __init__(self, count: Callable[[Target], int], clock: Callable[[], float], grace: float) -> None:
        self._count = count
        self._pairs: dict[Record, int] = {}
        self.rolls = [Roll(self._streams, clock, grace) for _ in range(PARTITIONS)]

    def joined(self, follows: Followed) -> None:
        """A stream has joined the hub."""
        for pair in _pairs(follows):
            self._pairs[pair] = self._pairs.get(pair, 0) + 1
            self._roll(pair[0]).came(pair)
        for target in each(follows):
            self._roll(target).came(target)

    def left(self, follows: Followed) -> None:
        """A stream has left the hub."""
        for pair in _pairs(follows):
            self._pairs[pair] -= 1
            if not self._pairs[pair]:
                del self._pairs[pair]
            self._roll(pair[0]).left(pair)
        for target in each(follows):
            self._roll(target).left(target)

    def _streams(self, record: Record) -> int:
        return self._count(record) if isinstance(record, str) else self._pairs.get(record, 0)

    def _roll(self, target: Target) -> Roll:
        return self.rolls[partition_of(target)]


def _pairs(follows: Followed) -> Iterator[tuple[Target, Target]]:
    if not isinstance(follows, str) and (user := user_of(follows)) is not None:
        for target in follows:
            if target != user:
                yield target, user


def _until(times: dict[Record, float], now: float) -> list[Record]:
    """Those at the front whose time has come."""
    found = []
    for record, time in times.items():
        if time > now:
            break
        found.append(record)
    return found
