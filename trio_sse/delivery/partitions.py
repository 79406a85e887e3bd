"""A log in several partitions: which of them a target is in, and ids that name a place in each. Pure.

    8:5.mb2x9k1q                    an entry of partition 5 of 8
    8:5.mb2x9k1q,2.mb2x9k0a_3       a place in two: those of a stream that follows what is in both
    8:5.mb2x9k1q;4:1.mb2w0000       while the log of 8 replaces one of 4
    8:5.-                           a place that was not known
    8~5.mb2x9k1q                    the same of a publisher: no stream was there

A part is the id of an entry: its milliseconds to base 36, and its number behind `_` where that is not 0. As
Redis writes it, `8~5.1795462559402-0`, it is read too. An id without a colon is one of a log that is not
partitioned.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trio_sse.delivery.event_ids import EntryId, parse
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.targets import ALL, Followed, Target, each, topic_name, user_of

MAX_LENGTH = 4096
"""Characters of an id. A stream that follows much has one place for each partition of it."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PART = re.compile(
    r"([0-9]{1,5})\.(?:(-)|([0-9]{1,20})-([0-9]{1,20})|([0-9a-z]{1,13})(?:_([0-9a-z]{1,13}))?)"
)
_GROUP = re.compile(r"([0-9]{1,5})([:~])(.+)", re.DOTALL)


class Partition(NamedTuple):
    """One of `of` keys of a log. A log that is not partitioned has one, with `of` 0."""

    of: int
    number: int


class Layout(NamedTuple):
    """How a log is kept: under `key` if `partitions` is 0, else under `key:{0}`, `key:{1}` and so on."""

    key: str
    partitions: int

    @property
    def all(self) -> list[Partition]:
        """All its partitions."""
        return [Partition(self.partitions, number) for number in range(max(1, self.partitions))]

    def name(self, number: int) -> str:
        """The key of a partition. In a cluster the braces make its slot that of the number alone (Redis
        Cluster specification, "Hash tags")."""
        return f"{self.key}:{{{number}}}" if self.partitions else self.key

    def of(self, target: Target) -> int:
        """The number of the partition that has the messages for a target."""
        return zlib.crc32(hashed(target)) % self.partitions if self.partitions else 0

    def numbers(self, targets: Iterable[Target] | None) -> list[int]:
        """The partitions to which a message for these goes, each once; one for everybody (None) goes to
        all."""
        if targets is None:
            return [partition.number for partition in self.all]
        return list(dict.fromkeys(map(self.of, targets)))


def hashed(target: Target) -> bytes:
    """What the number of a target's partition is made of: `user:42`, `topic:orders/17`."""
    name = topic_name(target)
    return (f"user:{target}" if name is None else f"topic:{name}").encode()


class Partitioning:
    """The log that is written to, and after it the one that it replaces, if there is one."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.layouts = tuple(layouts)

    def layout(self, partition: Partition) -> Layout:
        """The layout that has this partition."""
        return next(layout for layout in self.layouts if layout.partitions == partition.of)

    def key(self, partition: Partition) -> str:
        """The key of a partition in Redis."""
        return self.layout(partition).name(partition.number)

    def of(self, target: Target) -> tuple[Partition, ...]:
        """The partitions that have messages for a target."""
        return tuple([Partition(layout.partitions, layout.of(target)) for layout in self.layouts])

    def of_all(self, targets: Iterable[Target]) -> list[Partition]:
        """The partitions that have messages for any of these, each once."""
        return list(dict.fromkeys([partition for target in targets for partition in self.of(target)]))

    def knows(self, partition: Partition) -> bool:
        """Whether there is such a partition."""
        return any(partition in layout.all for layout in self.layouts)

    def order(self, follows: Followed, place: Place | None) -> list[Partition]:
        """The partitions that a stream follows. What is in several of them counts in the first. So the order
        stays, from one connection of a client to the next: its id has them in this order."""
        user = user_of(follows)
        targets = each(follows) if user is None else (user, *[one for one in each(follows) if one != user])
        needed = self.of_all(targets)
        given = place.parts if place is not None and not place.published else ()
        first = [partition for partition in given if partition in needed]
        return list(dict.fromkeys((*first, *needed)))

    def narrow(self, notification: Notification, partition: Partition) -> Notification | None:
        """What a message is in this partition: for those of its targets that are here, with the others as its
        `elsewhere`. None if it is for nobody here: then its publisher chose another partition."""
        targets, layout = notification.targets, self.layout(partition)
        if targets is None:
            return notification.within(None, (ALL,))
        here: list[Target] = []
        elsewhere: list[Target] = []
        for target in targets:
            (here if layout.of(target) == partition.number else elsewhere).append(target)
        if not here:
            return None
        return notification.within(tuple(here), tuple(elsewhere)) if elsewhere else notification

    def skips(self, follows: Followed, order: Sequence[Partition]) -> list[frozenset[Target]]:
        """For each partition in this order, which targets an `elsewhere` may name of a message that the
        stream gets from a partition before it."""
        found, before = [], dict.fromkeys((layout.partitions for layout in self.layouts), frozenset[Target]())
        for partition in order:
            found.append(before[partition.of])
            here = {target for target in each(follows) if partition in self.of(target)}
            before[partition.of] = before[partition.of] | here | {ALL}
        return found


class Place(NamedTuple):
    """What an id says: the entry in each partition, in its order. None: it was not known."""

    parts: dict[Partition, EntryId | None]
    published: bool = False
    """Whether it is the id of a publisher, and not of a stream."""

    @property
    def latest(self) -> EntryId:
        """The latest entry in any partition."""
        return max((entry for entry in self.parts.values() if entry is not None), default=(0, 0))


def parse_place(text: str) -> Place | None:
    """Read an id. None when it is none of these. Never raises."""
    if len(text) > MAX_LENGTH:
        return None
    if ":" not in text and "~" not in text:
        plain = parse(text)
        return None if plain is None or plain.entry is None else Place({Partition(0, 0): plain.entry})
    parts: dict[Partition, EntryId | None] = {}
    kinds = set()
    for group in text.split(";"):
        match = _GROUP.fullmatch(group)
        if match is None:
            return None
        kinds.add(match[2])
        for part in match[3].split(","):
            read = _PART.fullmatch(part)
            if read is None:
                return None
            parts[Partition(int(match[1]), int(read[1]))] = _entry(read)
    return Place(parts, published=kinds == {"~"}) if len(kinds) == 1 else None


def place_text(parts: Iterable[tuple[Partition, str]], *, published: bool = False) -> str:
    """The id of a place. Each part is one of `part_text`."""
    groups: dict[int, list[str]] = {}
    for partition, part in parts:
        groups.setdefault(partition.of, []).append(part)
    sign = "~" if published else ":"
    return ";".join([f"{of}{sign}{','.join(texts)}" for of, texts in groups.items()])


def part_text(partition: Partition, entry: EntryId | None) -> str:
    """A partition's part of an id."""
    if entry is None:
        return f"{partition.number}.-"
    milliseconds, number = entry
    behind = f"_{_base36(number)}" if number else ""
    return f"{partition.number}.{_base36(milliseconds)}{behind}"


def _entry(read: re.Match[str]) -> EntryId | None:
    _, unknown, milliseconds, number, short, short_number = read.groups()
    if unknown:
        return None
    if milliseconds is not None:
        return int(milliseconds), int(number)
    return int(short, 36), int(short_number or "0", 36)


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits
