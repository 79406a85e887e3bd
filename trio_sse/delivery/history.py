"""What can be replayed: the latest messages, bounded by count, age and bytes, with an index by user and by
topic. Pure."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter
from sys import getsizeof
from typing import Any, Generic, NamedTuple, TypeVar

from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.sources import Sources
from trio_sse.delivery.targets import Followed, Target, each

PAGE_BYTES = 65536
"""Bytes of a replay that are made at a time: about what a socket takes at once."""

_ENTRY_BYTES = 290
"""Bytes that a message costs beside its frame: tuples and its place in the lists."""

_INDEX_BYTES = 240
"""Further bytes for each of its users, beside their id, if they have no index yet."""


_NOTHING = frozenset[Target]()


class Page(NamedTuple):
    """A part of what is kept for those who follow something."""

    data: bytes
    through: int
    """The sequence up to which it reaches: `latest` at the end of what is kept."""
    messages: int
    """How many messages it has."""
    expired: int
    """How many it left out, because their time is over."""
    gaps: list[str]
    """The reasons of the gaps among them."""


class History:
    """Gives every message its sequence and its id, whether it is kept or not.

    Sequences count from 1, in the order this process learned of the messages. All after `floor` is kept. To
    find a place takes logarithmic time in what is kept for a user. A replay takes time for what it replays
    only.
    """

    def __init__(
        self,
        process: str,
        *,
        messages: int,
        seconds: float,
        max_bytes: int,
        clock: Callable[[], float],
        has_log: bool = False,
        partition: Partition | None = None,
    ) -> None:
        self.sources = Sources(process, has_log=has_log, partition=partition)
        self.latest = 0
        """The sequence of the newest message."""
        self.floor = 0
        """The sequence of the newest message that is no longer kept. Only this class changes these
        attributes."""
        self.last_entry: EntryId | None = None
        """The log's entry that was read last. None until a log was read."""
        self.entry_floor: EntryId = (0, 0)
        """Every entry after it that was read is kept."""
        self.read: object | None = None
        """The present read, while there is one: nothing but what it brought happens until it ends."""
        self._perishable = 0  # the sequence of the newest message that expires
        self._for_several = 0  # the sequence of the newest message with several targets
        self._notices: deque[_Notice] = deque()  # those kept: no messages
        self._known_since = math.inf  # on the clock: every message that came later is kept
        self._subscribed = math.inf  # on the clock: every message of the channel that came later is known
        self._messages = messages
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._now: float | None = None
        self._bytes = 0
        self._kept: deque[_Kept] = deque()
        self._shelves: dict[Target | None, _Shelf[bytes]] = {}
        self._entry_ids: _Shelf[EntryId] = _Shelf()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def indexed(self) -> int:
        """How many users and topics have an index. Everybody counts as one."""
        return len(self._shelves)

    def append(
        self,
        targets: tuple[Target, ...] | None,
        encode: Callable[[str], bytes],
        *,
        entry: EntryId | None = None,
        age: float = 0,
        own: str = "",
        expires: float = math.inf,
        elsewhere: tuple[Target, ...] = (),
    ) -> tuple[str, bytes]:
        """Give the next message its sequence, `latest`, and its id, and keep it. Returns the id and the frame
        that `encode` makes with it.

        The message is for `targets`; None: for everybody. It is the log's `entry`, or came by the channel, or
        is a gap that the service declares, for this reason (`own`). `age` is in seconds. It is not replayed
        after `expires`, on the clock. `elsewhere` is that of the notification.
        """
        self.latest = sequence = self.latest + 1
        if entry is not None:
            self.last_entry = entry
            self._entry_ids.entries.append((sequence, entry))
        elif not own:
            self.sources.channel_brought(sequence)
        id = self.sources.text(self.last_entry, sequence)  # noqa: A001
        frame = encode(id)
        size = len(frame) + _ENTRY_BYTES
        places: tuple[Target | None, ...] = _EVERYBODY if targets is None else targets
        kept: Any = (sequence, frame) if expires == math.inf else (sequence, frame, expires)
        if elsewhere:
            kept = (sequence, frame, expires, elsewhere)
        index = self._shelves
        for target in places:
            if target is not None:
                size += getsizeof(target) + _INDEX_BYTES
            if (shelf := index.get(target)) is None:
                shelf = index[target] = _Shelf()
            shelf.entries.append(kept)
        if expires != math.inf:
            self._perishable = sequence
        if len(places) > 1:
            self._for_several = sequence
        if own and places:
            self._notices.append((sequence, places, own))
        self._bytes += size
        now = self._clock() if self._now is None else self._now
        self._kept.append((sequence, now + self._seconds - age, places, size))
        if self._now is None:
            self.evict()
        return id, frame

    def skip(self) -> int:
        """Give no message the next sequence: an id that was given before stands for what was before. Returns
        the sequence."""
        self.latest += 1
        return self.latest

    def begin_read(self) -> float:
        """Until `end_read`, messages count as having come now, and nothing is evicted. Both for each message
        would take as long as the rest of `append`. Returns the time."""
        self._now = now = self._clock()
        self.read = object()
        return now

    def end_read(self) -> None:
        self.evict()
        self._now = self.read = None

    def filled_from(self, entry: EntryId, age: float = math.inf) -> None:
        """Every entry of the log after this one, whose `age` is in seconds, will be appended."""
        self.entry_floor = entry
        self._known_since = self._clock() - age

    @property
    def any_expire(self) -> bool:
        """Whether any message so far had a time after which it is of no use."""
        return self._perishable > 0

    def now(self) -> float:
        """The time on its clock: within a read, that of its begin."""
        return self._clock() if self._now is None else self._now

    def subscribed(self) -> None:
        """From now on every message of the channel is appended."""
        now = self._clock()
        self._known_since = min(self._known_since, now)
        self._subscribed = min(self._subscribed, now)

    def read_up_to(self, entry: EntryId) -> None:
        """The log has been read up to this entry, whether it was a message or not."""
        self.last_entry = entry

    def evict(self) -> None:
        """Drop what is beyond the bounds."""
        kept, index, entry_ids = self._kept, self._shelves, self._entry_ids
        now = self._clock() if self._now is None else self._now
        while kept and (len(kept) > self._messages or self._bytes > self._max_bytes or kept[0][1] <= now):
            self.floor, expires, places, size = kept.popleft()
            self._known_since = max(self._known_since, expires - self._seconds)
            self._bytes -= size
            for target in places:
                if not index[target].drop_oldest():
                    del index[target]
            if entry_ids.entries and entry_ids.oldest[0] == self.floor:
                self.entry_floor = entry_ids.oldest[1]
                entry_ids.drop_oldest()
        while self._notices and self._notices[0][0] <= self.floor:
            self._notices.popleft()

    def restart(self, entry: EntryId, was_at: EntryId) -> None:
        """Drop everything: the log was made anew. It had been read up to `was_at`, and goes on after
        `entry`."""
        self.sources.log_made_anew(entry, was_at)
        self._kept.clear()
        self._notices.clear()
        self._shelves.clear()
        self._entry_ids = _Shelf()
        self._bytes = 0
        self.floor = self.latest
        self._known_since = self._clock()
        self.last_entry = self.entry_floor = entry

    def covers(self, entry: EntryId) -> bool:
        """Whether all entries after this one, as far as the log was read, are kept."""
        return self.last_entry is not None and self.entry_floor <= entry <= self.last_entry

    def count(self, follows: Followed, after: int, skips: frozenset[Target] = _NOTHING) -> int:
        """How many messages for those who follow this came after the sequence `after` and are kept. `skips`
        is that of their connection."""
        return self._count(follows, after, skips, self._clock() if self._perishable > after else -math.inf)

    def kept_for(self, follows: Followed, after: int, skips: frozenset[Target] = _NOTHING) -> int:
        """How many messages for those who follow this came after the sequence `after` and are kept, also
        those whose time is over. `skips` is that of their connection."""
        return self._count(follows, after, skips, -math.inf)

    def _count(self, follows: Followed, after: int, skips: frozenset[Target], now: float) -> int:
        """How many of these have not expired `now`; -math.inf: nothing has."""
        found = self._newer(follows, after)
        notices = len(self._notices_for(follows, after)) if self._notices else 0
        plain = self._for_several <= after or isinstance(follows, str)
        if plain and not skips and now == -math.inf:
            return sum([len(shelf.entries) - place for shelf, place in found]) - notices
        kept = (entry for shelf, place in found for entry in shelf.entries[place:])
        return (
            len({entry[0] for entry in kept if not _is_over(entry, now) and _is_for(entry, skips)}) - notices
        )

    def page(
        self,
        follows: Followed,
        after: int,
        max_bytes: int = PAGE_BYTES,
        skips: frozenset[Target] = _NOTHING,
    ) -> Page:
        """The next messages for those who follow this, after the sequence `after`, each once. At least one
        message, if there is any, and about `max_bytes`. `skips` is that of their connection."""
        found = self._newer(follows, after)
        frames: list[bytes] = []
        expired = 0

        def up_to(through: int) -> Page:
            told = self._notices_for(follows, after) if self._notices else {}
            gaps = [reason for sequence, reason in told.items() if sequence <= through]
            return Page(b"".join(frames), through, len(frames) - len(gaps), expired, gaps)

        last, now = after, self._clock() if self._perishable > after else -math.inf
        for entry in _in_order(found):
            sequence, frame = entry[0], entry[1]
            if sequence == last or (len(entry) > 3 and not _is_for(entry, skips)):
                continue  # it was reached in another way
            last = sequence
            if len(entry) > 2 and _is_over(entry, now):
                expired += 1
                continue
            frames.append(frame)
            max_bytes -= len(frame)
            if max_bytes <= 0:
                return up_to(sequence if any(shelf.newer(sequence) for shelf, _ in found) else self.latest)
        return up_to(self.latest)

    def rewound(self, follows: Followed, count: int, skips: frozenset[Target] = _NOTHING) -> int:
        """The sequence after which the last `count` messages for those who follow this came. If fewer are
        kept: after which they came, and the notices before them. `skips` is that of their connection."""
        if not count:
            return self.latest
        latest = self.newest(follows, count, skips)
        if len(latest) < count:
            latest = sorted([*latest, *self._notices_for(follows, self.floor)])
        return latest[0] - 1 if latest else self.latest

    def newest(self, follows: Followed, count: int, skips: frozenset[Target] = _NOTHING) -> list[int]:
        """The sequences of the last `count` messages for those who follow this, or of all that are kept,
        oldest first."""
        numbers: set[int] = set()
        now = self._clock()
        notices = self._notices_for(follows, self.floor)
        for shelf, _ in self._newer(follows, self.floor):
            own = (
                entry[0]
                for entry in reversed(shelf.entries[shelf.start :])
                if entry[0] not in notices and not _is_over(entry, now) and _is_for(entry, skips)
            )
            numbers.update(islice(own, count))
        return sorted(numbers)[-count:] if count else []

    def since(self, seconds: float) -> tuple[int, bool]:
        """The sequence after which the messages of the last `seconds` came, and whether all of them are
        kept."""
        then = self._clock() - seconds
        place = bisect_left(self._kept, then + self._seconds, key=itemgetter(1))
        sequence = self._kept[place][0] - 1 if place < len(self._kept) else self.latest
        known = self._known_since
        if self.sources.channel_since is not None:  # the log does not have what came by the channel before
            known = max(known, self._subscribed)
        return sequence, known <= then

    def at(self, sequence: int) -> EntryId | None:
        """The log's last entry up to `sequence`. None if that is not known, or no longer."""
        if self.last_entry is None or sequence < self.floor:
            return None
        return (
            self.last_entry if sequence == self.latest else self._entry_ids.latest(sequence, self.entry_floor)
        )

    def text(self, sequence: int) -> str | None:
        """The id that stands for everything up to `sequence`, or None if it is no longer known."""
        entry = self.at(sequence)
        sources = self.sources
        unknown = entry is None and sources.has_log and sources.partition is None
        return None if unknown else sources.text(entry, sequence)

    def sequence_of(self, entry: EntryId) -> int:
        """The sequence of the last kept message up to the log's entry `entry`, or `floor`."""
        entries = self._entry_ids.entries
        place = bisect_right(entries, entry, self._entry_ids.start, key=itemgetter(1))
        return entries[place - 1][0] if place > self._entry_ids.start else self.floor

    def _notices_for(self, follows: Followed, after: int) -> dict[int, str]:
        """The kept gaps after this sequence, for those who follow this: the reason of each."""
        mine = {None, *each(follows)}
        after = max(after, self.floor)
        return {
            one: reason
            for one, places, reason in self._notices
            if one > after and not mine.isdisjoint(places)
        }

    def _newer(self, follows: Followed, after: int) -> list[tuple[_Shelf[bytes], int]]:
        """The shelves that have something after this sequence, with the place where it begins."""
        found = []
        for target in (*each(follows), None):
            if (shelf := self._shelves.get(target)) is not None:
                place = shelf.find(after)
                if place < len(shelf.entries):
                    found.append((shelf, place))
        return found


_FEW = 1000


def _in_order(found: list[tuple[_Shelf[bytes], int]]) -> Iterable[tuple[int, bytes]]:
    """What the shelves have from these places on, in the order of the sequences."""
    if len(found) == 1:
        shelf, place = found[0]
        return islice(shelf.entries, place, None)
    if sum([len(shelf.entries) - place for shelf, place in found]) <= _FEW:  # sorted in a fifth of the time
        return sorted([entry for shelf, place in found for entry in shelf.entries[place:]], key=itemgetter(0))
    return heapq.merge(*[islice(shelf.entries, place, None) for shelf, place in found], key=itemgetter(0))


def _is_over(entry: tuple[Any, ...], now: float) -> bool:
    """Whether a kept message has expired."""
    return len(entry) > 2 and entry[2] <= now


def _is_for(entry: tuple[Any, ...], skips: frozenset[Target]) -> bool:
    """Whether a connection with these `skips` gets a kept message."""
    return len(entry) < 4 or skips.isdisjoint(entry[3])


_Kept = tuple[int, float, tuple[Target | None, ...], int]

_Notice = tuple[int, tuple[Target | None, ...], str]


_EVERYBODY = (None,)

_T = TypeVar("_T")
_GONE: Any = None


class _Shelf(Generic[_T]):
    """Items with a sequence, oldest first. Those before `start` are dropped, and cut off from time to
    time."""

    __slots__ = ("entries", "start")

    def __init__(self) -> None:
        self.entries: list[tuple[int, _T]] = []
        self.start = 0

    def __len__(self) -> int:
        return len(self.entries) - self.start

    @property
    def oldest(self) -> tuple[int, _T]:
        return self.entries[self.start]

    def drop_oldest(self) -> int:
        """Returns how many are left."""
        # The item is freed at once. The list is cut when half of it is gone, which moves each item once.
        entries = self.entries
        entries[self.start] = _GONE
        self.start = start = self.start + 1
        if 2 * start > len(entries):
            del entries[:start]
            self.start = start = 0
        return len(entries) - start

    def find(self, after: int) -> int:
        """The place of the first with a sequence above `after`."""
        return bisect_left(self.entries, (after + 1,), self.start)

    def newer(self, after: int) -> int:
        """How many have a sequence above `after`."""
        return len(self.entries) - self.find(after)

    def latest(self, sequence: int, default: _T) -> _T:
        """The last whose sequence is not above `sequence`."""
        place = self.find(sequence)
        return self.entries[place - 1][1] if place > self.start else default
