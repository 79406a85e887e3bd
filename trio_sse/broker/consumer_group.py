"""A log, read by a consumer group: each entry by one member, and again if it died with it. asyncio only."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, call
from trio_sse.broker.log import Pace, payload_of, read_info
from trio_sse.delivery.event_ids import EntryId, entry_id, entry_text

BLOCK_SECONDS = 5
IDLE_SECONDS = 15
"""An entry that a member took so long ago, and has not finished, is taken over by another one."""

_SURELY_SECONDS = 1.0
"""A member that reads again within this time, and less than a page, has missed nothing: so many entries are
not trimmed so soon."""

_GONE = ("NOGROUP", "UNBLOCKED")
"""Codes of Redis where the log, or the group, was deleted."""


class Taken(NamedTuple):
    """Entries that this member is to finish."""

    entries: list[tuple[bytes, bytes | None]]
    """Each with its id and its payload, None where it has none."""
    missing: bool
    """Whether entries were trimmed away, or deleted, before anybody took them."""


class ConsumerGroup:
    """A member, by `name`, of the group `group` of the log `key`. Those who share a name may take one entry
    both."""

    def __init__(self, key: str, group: str, name: str) -> None:
        self._key = key
        self._group = group
        self._name = name
        self._last: EntryId | None = None  # that any member took, as far as this one knows
        self._pace = Pace()
        self._pending = True
        self._looked_at = self._read_at = 0.0

    async def enter(self, link: Link) -> bool:
        """Make the group if there is none. Returns whether it was made: then it is not known what the log had
        before. Raises one of link.ERRORS."""
        self._pending = True
        start = "$"
        if self._last is not None:  # it was there, and is gone: go on where it was
            info = await read_info(link, self._key)
            start = entry_text(self._last) if info.last >= self._last else "0"
        made = True
        async with answer_within(CONNECT_SECONDS):
            try:
                await call(link, "XGROUP", "CREATE", self._key, self._group, start, "MKSTREAM")
            except ResponseError as error:
                if _code(error) != "BUSYGROUP":
                    raise
                made = False
        facts = await self._facts(link)
        self._last = entry_id(facts[b"last-delivered-id"])
        return made

    async def take(self, link: Link) -> Taken:
        """The next entries. At first those that a member of this name had taken before. None may come within
        some seconds. Raises one of link.ERRORS."""
        clock = asyncio.get_running_loop().time
        try:
            if self._pending:
                if entries := await self._read(link, "0"):
                    return _taken(entries)
                self._pending = False
                self._looked_at = clock()
            if clock() - self._looked_at > IDLE_SECONDS:
                found = await self._abandoned(link)
                if found.entries or found.missing:
                    return found  # there may be more
                self._looked_at = clock()
            surely = clock() - self._read_at < _SURELY_SECONDS and not self._pace.full
            missing = not surely and await self._misses_trimmed(link)
            entries = await self._read(link, ">", "BLOCK", BLOCK_SECONDS * 1000)
            self._read_at = clock()
        except ResponseError as error:
            if _code(error) not in _GONE:
                raise
            return Taken([], missing=await self.enter(link))
        self._pace.saw(entries)
        if entries:
            self._last = max(self._last or (0, 0), entry_id(entries[-1][0]))
        return Taken(_taken(entries).entries, missing)

    async def finish(self, link: Link, entries: list[bytes]) -> None:
        """These are done, for all members. Raises one of link.ERRORS."""
        async with answer_within(CONNECT_SECONDS):
            await call(link, "XACK", self._key, self._group, *entries)

    async def _read(self, link: Link, after: str, *block: int | str) -> list[Any]:
        member = ("GROUP", self._group, self._name, "COUNT", self._pace.count)
        async with answer_within(BLOCK_SECONDS + CONNECT_SECONDS):
            found = await call(link, "XREADGROUP", *member, *block, "STREAMS", self._key, after)
        return found[0][1] if found else []

    async def _abandoned(self, link: Link) -> Taken:
        """What another member took, and has not finished."""
        member = (self._key, self._group, self._name, IDLE_SECONDS * 1000, "0", "COUNT", self._pace.count)
        async with answer_within(CONNECT_SECONDS):
            _, entries, *deleted = await call(link, "XAUTOCLAIM", *member)
        found = _taken([entry for entry in entries if entry is not None])
        return Taken(found.entries, found.missing or bool(deleted and deleted[0]) or None in entries)

    async def _misses_trimmed(self, link: Link) -> bool:
        """Whether entries were trimmed away that nobody took."""
        info, facts = await read_info(link, self._key), await self._facts(link)
        last, read = entry_id(facts[b"last-delivered-id"]), facts.get(b"entries-read")
        if info.last == last or info.untrimmed or (info.first is not None and info.first <= last):
            return False
        return info.added is None or read is None or info.added - read > info.length

    async def _facts(self, link: Link) -> dict[bytes, Any]:
        async with answer_within(CONNECT_SECONDS):
            try:
                groups = await call(link, "XINFO", "GROUPS", self._key)
            except ResponseError as error:
                if "no such key" not in str(error).lower():
                    raise
                groups = []
        for answer in groups:
            facts = dict(zip(answer[::2], answer[1::2], strict=True))
            if facts[b"name"] == self._group.encode():
                return facts
        raise ResponseError(f"No such consumer group '{self._group}'", status_code="NOGROUP")


def _taken(entries: list[Any]) -> Taken:
    """Entries as Redis gives them. Of those that are deleted it gives the id alone."""
    payloads = [(entry[0], payload_of(entry[1])) for entry in entries]
    return Taken(payloads, any(entry[1] is None for entry in entries))


def _code(error: ResponseError) -> str:
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]
