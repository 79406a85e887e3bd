"""What can be replayed: the latest messages, bounded by count, age and bytes, with an index by user. Pure."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from sys import getsizeof
from typing import Any, Generic, TypeVar

from trio_sse.delivery.event_ids import EntryId, entry_text

PAGE_BYTES = 65536
"""How much of a replay is made at a time: about what a socket takes at once."""

_ENTRY_BYTES = 290
"""What an entry costs beside its frame: tuples and its place in the lists."""

_INDEX_BYTES = 240
"""What it costs beside for each of its users and their id, if they have no index yet."""


class History:
    """Every message gets its number and its id here, whether it is kept or not.

    Numbers count from 1 in the order this process learned of the messages. Everything after `floor` is kept.
    Finding a place costs the logarithm of what is stored for a user; a replay costs what it replays.
    """

    def __init__(
        self, process: str, *, messages: int, seconds: float, max_bytes: int, clock: Callable[[], float],
        has_log: bool = False,
    ) -> None:  # fmt: skip
        self.process = process
        self.has_log = has_log
        """Whether ids are those of a log."""
        self.latest = 0
        self.floor = 0
        self.last_entry: EntryId | None = None
        """The log entry read last. None until a log has been looked at."""
        self.entry_floor: EntryId = (0, 0)
        """Every entry after it that was read is kept."""
        self.channel_since: int | None = None
        """With a log: the number of the first message that came by the channel."""
        self._doubtful: tuple[EntryId, EntryId] | None = None
        self.channel_known_from: float = -1
        """With a log: what came by the channel after this number is known, what came before is not."""
        self._messages = messages
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._kept: deque[_Kept] = deque()
        self._users: dict[str | None, _Shelf[bytes]] = {}
        self._entry_ids: _Shelf[EntryId] = _Shelf()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def users(self) -> int:
        """How many users have an index. Everybody counts as one."""
        return len(self._users)

    def advance(self, entry: EntryId | None = None, *, own: bool = False) -> str:
        """Number the next message and return its id. It is the log's entry `entry`, or it came by the
        channel, or the service says it itself (`own`)."""
        self.latest += 1
        if entry is not None:
            self.last_entry = entry
        elif self.has_log and self.channel_since is None and not own:
            self.channel_since = self.latest
        return self._text(self.last_entry, self.latest)

    def keep(
        self, users: tuple[str, ...] | None, frame: bytes, *, entry: EntryId | None = None, age: float = 0
    ) -> None:
        """Keep the message numbered last. `users` None: it is everybody's. `age` in seconds."""
        sequence = self.latest
        shelves: tuple[str | None, ...] = (None,) if users is None else users
        size = len(frame) + _ENTRY_BYTES
        if users is not None:
            size += sum(map(getsizeof, users)) + _INDEX_BYTES * len(users)
        self._kept.append((sequence, self._clock() + self._seconds - age, shelves, size))
        self._bytes += size
        if entry is not None:
            self._entry_ids.entries.append((sequence, entry))
        kept = (sequence, frame)
        for user in shelves:
            shelf = self._users.get(user)
            if shelf is None:
                shelf = self._users[user] = _Shelf()
            shelf.entries.append(kept)
        self.evict()

    def evict(self) -> None:
        """Let go of what is beyond the bounds."""
        kept, now = self._kept, self._clock()
        while kept and (len(kept) > self._messages or self._bytes > self._max_bytes or kept[0][1] <= now):
            self.floor, _, users, size = kept.popleft()
            self._bytes -= size
            for user in users:
                shelf = self._users[user]
                shelf.drop_oldest()
                if not shelf:
                    del self._users[user]
            if self._entry_ids and self._entry_ids.oldest[0] == self.floor:
                self.entry_floor = self._entry_ids.oldest[1]
                self._entry_ids.drop_oldest()

    def restart(self, entry: EntryId, was_at: EntryId) -> None:
        """Forget everything: the log has become another one. It had come to `was_at`, and goes on after
        `entry`."""
        after, until = self._doubtful or (entry, was_at)
        self._doubtful = (min(after, entry), max(until, was_at))
        self._kept.clear()
        self._users.clear()
        self._entry_ids = _Shelf()
        self._bytes = 0
        self.floor = self.latest
        self.last_entry = self.entry_floor = entry

    def channel_doubt(self, number: int) -> str | None:
        """The reason why something may have come by the channel after this number that is not known here."""
        unknown = self.channel_since is not None and number <= self.channel_known_from
        return "unknown_id" if unknown else None

    def is_doubtful(self, entry: EntryId) -> bool:
        """Whether this may be the id of an entry in what the log was before it became another one."""
        return self._doubtful is not None and self._doubtful[0] < entry <= self._doubtful[1]

    def count(self, user: str, after: int) -> int:
        """How many messages for `user` came after the number `after` and are kept."""
        return sum(shelf.newer(after) for shelf in self._shelves(user))

    def page(self, user: str, after: int, max_bytes: int = PAGE_BYTES) -> tuple[bytes, int]:
        """The next messages for `user` after the number `after`, and up to which number that is: `latest` at
        the end of what is kept. At least one, and about `max_bytes`."""
        shelves = [shelf for shelf in self._shelves(user) if shelf.newer(after)]
        own = [islice(shelf.entries, shelf.find(after), None) for shelf in shelves]
        entries = own[0] if len(own) == 1 else heapq.merge(*own)
        frames = []
        for sequence, frame in entries:
            frames.append(frame)
            max_bytes -= len(frame)
            if max_bytes <= 0:
                through = sequence if any(shelf.newer(sequence) for shelf in shelves) else self.latest
                return b"".join(frames), through
        return b"".join(frames), self.latest

    def at(self, sequence: int) -> EntryId | None:
        """The log's last entry up to the number `sequence`. None if that is not known, or no longer."""
        if self.last_entry is None or sequence < self.floor:
            return None
        return (
            self.last_entry if sequence == self.latest else self._entry_ids.latest(sequence, self.entry_floor)
        )

    def text(self, sequence: int) -> str | None:
        """The id that stands for everything up to the number `sequence`, or None if it is no longer known."""
        entry = self.at(sequence)
        return None if self.has_log and entry is None else self._text(entry, sequence)

    def sequence_of(self, entry: EntryId) -> int:
        """The number of the last message kept that is not after the log's entry `entry`, or `floor`."""
        entries = self._entry_ids.entries
        place = bisect_right(entries, entry, self._entry_ids.start, key=itemgetter(1))
        return entries[place - 1][0] if place > self._entry_ids.start else self.floor

    def _text(self, entry: EntryId | None, sequence: int) -> str:
        if entry is None:
            return f"{self.process}.{sequence}"
        if self.channel_since is None or sequence < self.channel_since:
            return entry_text(entry)
        return f"{entry_text(entry)}/{self.process}.{sequence}"

    def _shelves(self, user: str) -> list[_Shelf[bytes]]:
        return [shelf for key in (user, None) if (shelf := self._users.get(key))]


_Kept = tuple[int, float, tuple[str | None, ...], int]


_T = TypeVar("_T")
_GONE: Any = None


class _Shelf(Generic[_T]):
    """Numbered things, oldest first. Those before `start` are gone, and swept away from time to time."""

    __slots__ = ("entries", "start")

    def __init__(self) -> None:
        self.entries: list[tuple[int, _T]] = []
        self.start = 0

    def __len__(self) -> int:
        return len(self.entries) - self.start

    @property
    def oldest(self) -> tuple[int, _T]:
        return self.entries[self.start]

    def drop_oldest(self) -> None:
        # Free at once: the list itself is swept when half of it is gone, which costs each entry one move.
        self.entries[self.start] = _GONE
        self.start += 1
        if 2 * self.start > len(self.entries):
            del self.entries[: self.start]
            self.start = 0

    def find(self, after: int) -> int:
        """The place of the first with a number above `after`."""
        return bisect_left(self.entries, (after + 1,), self.start)

    def newer(self, after: int) -> int:
        """How many have a number above `after`."""
        return len(self.entries) - self.find(after)

    def latest(self, sequence: int, default: _T) -> _T:
        """The last whose number is not above `sequence`."""
        place = self.find(sequence)
        return self.entries[place - 1][1] if place > self.start else default
