"""A log: the commands that read it, and the check whether it is still the one that was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, call
from trio_sse.delivery.event_ids import EntryId, entry_id, entry_text

PAGE = 250
"""Entries read at a time, at most. To dispatch so many takes a few milliseconds; then other tasks run."""

PAGE_BYTES = 1024 * 1024
"""Bytes that a page has at most, as long as entries are small enough."""

FIRST_PAGE = 2
_GROWTH = 4
_WHEN_ALL_IS_READ = 32

_FIELD = b"payload"
_LAST_NUMBER = 2**64 - 1

Entry = tuple[EntryId, bytes | None]
"""An id and the message in the field `payload`, None where an entry has no such field."""


class Info(NamedTuple):
    """What Redis says about the log (`XINFO STREAM`)."""

    last: EntryId
    first: EntryId | None
    """The oldest entry still there."""
    added: int | None
    """Entries ever added. None where Redis is older than 7.0 and does not say."""
    length: int

    @property
    def untrimmed(self) -> bool:
        """Whether it still has every entry ever added."""
        return self.added == self.length

    def never_had(self, entry: EntryId) -> bool:
        """Whether an entry is of another log: this one has all that it ever had, and they are newer. An empty
        log has the place (0, 0)."""
        return self.untrimmed and self.first is not None and (0, 0) < entry < self.first


class Pace:
    """How many entries to read at a time. Redis limits an answer by their number alone, not by bytes. So the
    first page is small, and the size of each next one follows from the largest entry of the one before."""

    __slots__ = ("count", "full")

    def __init__(self, first: int = FIRST_PAGE) -> None:
        self.count = min(first, PAGE)
        self.full = False
        """Whether the last page was full: there may be more."""

    def saw(self, raw: list[Any]) -> None:
        """Adapt to the entries of the last page, as Redis sends them."""
        self.full = len(raw) >= self.count
        largest = max((sum(map(len, entry[1] or ())) for entry in raw), default=0)
        if raw:
            most = _GROWTH * self.count if self.full else min(self.count, _WHEN_ALL_IS_READ)
            self.count = max(1, min(PAGE, most, PAGE_BYTES // max(largest, 1)))


@dataclass(slots=True)
class Place:
    """How far a log has been read."""

    last: EntryId
    added: int | None
    """Entries added up to there, as Redis counts them."""
    broken_off: EntryId = (0, 0)
    """The entry at which the log was made anew. What it had before cannot be read from it."""

    def is_unbroken(self, info: Info, since: EntryId) -> bool:
        """Whether the log, as it is now, is the one that was read and has every entry after `since`."""
        if not self.is_in(info):
            return False
        return info.untrimmed or since >= before(info.first or behind(info.last))

    def is_in(self, info: Info) -> bool:
        """Whether the log is still the one that was read. It is not if it was made anew under the same name,
        or comes from a replica that had not received everything."""
        if info.last < self.last:
            return False
        if not self.added or info.added is None:
            return True
        # One that has every entry ever added has those that were read too.
        lacks_all = info.untrimmed and (info.first is None or info.first > self.last)
        return info.added >= self.added and not lacks_all

    def misses_trimmed(self, info: Info) -> bool:
        """Whether entries after this place were trimmed away."""
        if info.untrimmed or info.last == self.last:
            return False
        if info.first is not None and info.first <= self.last:
            return False
        return self.added is None or info.added is None or info.added - self.added > info.length

    def skip_trimmed(self, info: Info) -> None:
        """Count what was trimmed away as read."""
        self.added = None if info.added is None else info.added - info.length

    def was_read(self, info: Info) -> None:
        """What Redis had at the moment of `info` has been read. At the end of the log the count is known
        again, whatever log was there before."""
        if self.last == info.last:
            self.added = info.added

    def advance(self, entry: EntryId) -> None:
        """This entry has been read."""
        self.last = entry
        if self.added is not None:
            self.added += 1


async def read_info(link: Link, key: str) -> Info:
    """Read `Info`. A missing key is an empty log. Raises one of link.ERRORS."""
    async with answer_within(CONNECT_SECONDS):
        try:
            return info_of(await call(link, "XINFO", "STREAM", key))
        except ResponseError as error:
            return info_of(error)


def info_of(answer: Any) -> Info:
    """What Redis answers to `XINFO STREAM`. Raises the error that it is, unless the log is empty."""
    if isinstance(answer, ResponseError):
        if "no such key" in str(answer).lower():
            return Info((0, 0), None, 0, 0)
        raise answer
    facts: dict[bytes, Any] = dict(zip(answer[::2], answer[1::2], strict=True))
    first = facts[b"first-entry"]
    return Info(
        entry_id(facts[b"last-generated-id"]),
        entry_id(first[0]) if first else None,
        facts.get(b"entries-added"),
        facts[b"length"],
    )


async def wait_for_entry(link: Link, key: str, after: EntryId, milliseconds: int) -> None:
    """Wait until there is an entry after this one, `milliseconds` at most. Raises one of link.ERRORS."""
    await call(link, "XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", key, entry_text(after))


async def read_after(link: Link, key: str, after: EntryId, pace: Pace) -> tuple[Info, list[Entry]]:
    """The next entries, a page at most, and `Info` of the same moment: without a transaction, entries could
    be trimmed between the two. Raises one of link.ERRORS."""
    commands = (
        ("MULTI",),
        ("XINFO", "STREAM", key),
        ("XREAD", "COUNT", pace.count, "STREAMS", key, entry_text(after)),
        ("EXEC",),
    )
    async with answer_within(CONNECT_SECONDS):
        await link.send_packed_command(link.pack_commands(commands))
        for _ in commands:
            answer = await link.read_response(disable_decoding=True)
    about, found = answer
    if isinstance(found, ResponseError):
        raise found
    raws = found[0][1] if found else []
    pace.saw(raws)
    return info_of(about), [_entry(raw) for raw in raws]


async def read_back(link: Link, key: str, end: EntryId, start: EntryId, pace: Pace) -> list[Entry]:
    """Entries from `end` down to `start`, newest first, a page at most. Raises one of link.ERRORS."""
    async with answer_within(CONNECT_SECONDS):
        found = await call(link, "XREVRANGE", key, entry_text(end), entry_text(start), "COUNT", pace.count)
    pace.saw(found)
    return [_entry(raw) for raw in found]


def _entry(raw: Any) -> Entry:
    return entry_id(raw[0]), payload_of(raw[1])


def payload_of(fields: list[bytes] | None) -> bytes | None:
    """The payload among the fields of an entry, of which a deleted one has none."""
    fields = fields or []
    return next((fields[at + 1] for at in range(0, len(fields), 2) if fields[at] == _FIELD), None)


def before(entry: EntryId) -> EntryId:
    """The greatest id below this one."""
    milliseconds, number = entry
    if number:
        return milliseconds, number - 1
    return (milliseconds - 1, _LAST_NUMBER) if milliseconds else (0, 0)


def behind(entry: EntryId) -> EntryId:
    """The least id above this one."""
    milliseconds, number = entry
    return (milliseconds, number + 1) if number < _LAST_NUMBER else (milliseconds + 1, 0)
