"""What memory no longer keeps, found in the log for those who ask. Runs in the subscriber's asyncio
task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from trio_sse.broker.link import Link, open_link
from trio_sse.broker.log import (
    FIRST_PAGE,
    Entry,
    Pace,
    Place,
    before,
    behind,
    read_after,
    read_back,
    read_info,
)
from trio_sse.delivery import messages, sse
from trio_sse.delivery.event_ids import EntryId, entry_text
from trio_sse.delivery.history import PAGE_BYTES, History
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import PendingReplay, Resumer
from trio_sse.settings import Settings

WALK_BYTES = 4 * 1024 * 1024
"""What one walk through the log gives to all who ask, at most. Beyond it they get it in the next one."""

WALK_ENTRIES = 2500
"""How far one walk forwards goes. Who has found nothing for it by then goes on from there in the next one."""

LINGER_SECONDS = 0.5
"""How long the connection to Redis is kept for the next replay: who reads a replay asks for each page."""


class Lookup:
    """Answers the replays of connections that memory cannot help.

    A replay is looked at twice. One walk backwards, for all who ask, finds how far back the log may be
    looked through, what is missing there and how many messages there are for each. Whoever has no more than a
    page gets it at once. The others get theirs page by page, each when the one before has left: by walks
    forwards, which all share who are near each other.
    """

    def __init__(self, settings: Settings, key: str, history: History, resumer: Resumer) -> None:
        self._settings = settings
        self._key = key
        self._history = history
        self._resumer = resumer

    async def answer_pending(self, place: Place) -> None:
        """Until cancelled. Raises one of link.ERRORS, with the replays kept for the next time."""
        any_pending = self._resumer.any_pending
        while True:
            await any_pending.wait()
            async with open_link(self._settings, database=True) as link:
                while any_pending.is_set():
                    await self._answer_pending(link, place)
                    try:
                        async with asyncio.timeout(LINGER_SECONDS):
                            await any_pending.wait()
                    except TimeoutError:
                        break

    async def _answer_pending(self, link: Link, place: Place) -> None:
        # Apart from the loop: a name of its frame would hold whoever was answered until somebody else asks.
        replays = self._resumer.take_pending()
        try:
            if new := [replay for replay in replays if replay.rest is None]:
                await self._answer_new(link, new, place)
            if begun := [_Reader(replay, replay.rest) for replay in replays if replay.rest]:
                await self._answer_begun(link, begun, place)
        finally:
            self._resumer.put_back(replay for replay in replays if not replay.answered)

    async def _answer_new(self, link: Link, replays: list[PendingReplay], place: Place) -> None:
        info = await read_info(link, self._key)
        history = self._history
        assert history.last_entry is not None
        # What memory has at this moment. It is asked again if it loses more while we read.
        latest, current = history.latest, history.last_entry
        floor, oldest = history.floor, history.entry_floor
        wanted: list[_Wanted] = []
        for replay in replays:
            after = replay.after
            if after > max(current, info.last):
                self._resumer.answer(replay, latest, current, "unknown_id")
            elif after > current:
                self._resumer.defer(replay)  # another process has read further than we have
            elif replay.whole:
                wanted.append(_Wanted(replay, current, latest))
            elif after < oldest:
                wanted.append(_Wanted(replay, oldest, floor))
            else:  # since it was asked, this process has read so far
                sequence = history.sequence_of(after)
                self._resumer.answer(replay, sequence, after, history.sources.replay_doubt(sequence))
        if not wanted:
            return
        reached = await self._look_back(link, wanted)
        # While the answer is on its way, more may be read than it knows of.
        read = replace(place)
        info = await read_info(link, self._key)
        for want in wanted:
            replay, after = want.replay, want.replay.after
            there = read.is_in(info) and (info.untrimmed or after >= (info.first or info.last))
            intact = there and after >= max(reached, place.broken_off)
            gap = history.sources.replay_doubt(want.sequence) if intact else "history_expired"
            replay.older, replay.count = want.frames[::-1], want.count
            rest = None
            if want.paged:
                begins = after if intact else max(after, reached, before(info.first or (0, 0)))
                rest = Rest(begins, want.top, want.sequence, place.broken_off, FIRST_PAGE)
            self._resumer.answer(replay, want.sequence, want.top, gap, rest=rest)

    async def _look_back(self, link: Link, wanted: list[_Wanted]) -> EntryId:
        """Read the log backwards, and count for each replay what is for it, or keep it if that is no
        more than a page. Returns the newest entry that is beyond the bound: all after it was read. (0, 0) if
        there is none."""
        by_user = _by_user(wanted)
        low = behind(min(want.replay.after for want in wanted))
        end = max(want.top for want in wanted)
        limit, room, pace = self._settings.replay_limit, WALK_BYTES, Pace()
        while True:
            page = await read_back(link, self._key, end, low, pace)
            for entry, payload in page:
                if limit <= 0:
                    return entry
                limit -= 1
                found = self._read(entry, payload)
                if found is None:
                    continue
                frame = b""
                for want in _takers(found, wanted, by_user):
                    if want.replay.after < entry <= want.top:
                        want.count += 1
                        if not want.paged:
                            frame = frame or _frame(found, entry)
                            room -= want.keep(frame, room)
            if not pace.full:
                return (0, 0)
            end = before(page[-1][0])

    async def _answer_begun(self, link: Link, readers: list[_Reader], place: Place) -> None:
        """Read the log forwards from where the first who asks has come to, and give a page to all whose
        place is passed, within what one walk may read and hold. The others are asked about again."""
        cursor, pace = readers[0].at, Pace(readers[0].rest.pace)
        waiting = [reader for reader in readers if reader.at >= cursor]
        looked_through, room = 0, WALK_BYTES
        while waiting and looked_through < WALK_ENTRIES and room > 0:
            cursor = max(cursor, min(reader.at for reader in waiting))
            read = replace(place)
            info, page = await read_after(link, self._key, cursor, pace)
            end = page[-1][0] if pace.full else max(reader.top for reader in waiting)
            passed = []
            for reader in waiting:
                if reader.at <= end:
                    unbroken = read.is_unbroken(info, reader.at)
                    if reader.accept(unbroken=unbroken, broken_off=place.broken_off):
                        passed.append(reader)
                    else:
                        self._answer_page(reader)
            room -= self._hand_out(page, passed, looked_through)
            looked_through += len(page)
            for reader in passed:
                if not reader.full:
                    reader.at = min(end, reader.top)
                if reader.full or reader.at >= reader.top:
                    self._answer_page(reader)
            waiting = [reader for reader in waiting if not reader.replay.answered]
            cursor = end
        for reader in waiting:
            if reader.replay.older:
                self._answer_page(reader)
            elif reader.moved:
                self._resumer.put_back_last(reader.replay, reader.rest)

    def _hand_out(self, page: list[Entry], readers: list[_Reader], looked_through: int) -> int:
        """Give the entries to those whose page has room. So many entries have been `looked_through` before.
        Returns the bytes given, each frame once."""
        by_user = _by_user(readers)
        given = 0
        for entry, payload in page:
            looked_through += 1
            found = self._read(entry, payload)
            if found is None:
                continue
            frame = b""
            for reader in _takers(found, readers, by_user):
                if not reader.full and reader.at < entry <= reader.top:
                    frame = frame or _frame(found, entry)
                    reader.add(entry, frame, looked_through)
            given += len(frame)
        return given

    def _answer_page(self, reader: _Reader) -> None:
        rest = reader.rest if reader.at < reader.top else None
        self._resumer.answer(reader.replay, reader.rest.sequence, reader.top, rest=rest)

    def _read(self, entry: EntryId, payload: bytes | None) -> Notification | None:
        if payload is None:
            return None
        try:
            return messages.decode(payload, self._settings.max_message_bytes, entry)
        except messages.MessageError:
            return None


@dataclass(slots=True, eq=False)
class _Wanted:
    """A new replay, and what the log is found to have for it."""

    replay: PendingReplay
    top: EntryId
    """The entry up to which the log is to tell."""
    sequence: int
    """The sequence from which on memory does."""
    frames: list[bytes] = field(default_factory=list)
    """Newest first."""
    size: int = 0
    count: int = 0
    paged: bool = False
    """Whether it is more than a page: then no frames are kept."""

    def keep(self, frame: bytes, room: int) -> int:
        """One more, older than those before. Returns how much of `room` it takes, or gives back."""
        if self.size + len(frame) <= min(PAGE_BYTES, self.size + room):
            self.frames.append(frame)
            self.size += len(frame)
            return len(frame)
        self.paged = True
        self.frames.clear()
        return -self.size


class _Reader:
    """A replay for the next page of a replay, and how far the log has been looked through for it."""

    __slots__ = ("_pace", "_rest", "at", "full", "replay", "size")

    def __init__(self, replay: PendingReplay, rest: Rest) -> None:
        self.replay = replay
        self.at = rest.after
        self.full = False
        self.size = 0
        self._rest = rest
        self._pace = rest.pace
        replay.older.clear()

    @property
    def rest(self) -> Rest:
        """What is left behind the place it has come to."""
        return self._rest._replace(after=self.at, pace=self._pace)

    @property
    def top(self) -> EntryId:
        return self._rest.top

    @property
    def moved(self) -> bool:
        return self.at > self._rest.after

    def accept(self, *, unbroken: bool, broken_off: EntryId) -> bool:
        """Whether what the log has next belongs to this page. Not behind something that is missing: that
        is told at the beginning of the next one."""
        told = broken_off == self._rest.broken_off or self.at >= broken_off
        if unbroken and told:
            return True
        if self.replay.older:
            return False
        self.replay.gap = self.replay.gap or "history_expired"
        self._rest = self._rest._replace(broken_off=broken_off)
        return True

    def add(self, entry: EntryId, frame: bytes, looked_through: int) -> None:
        """One more for this page, for which so many entries have been looked through."""
        self.replay.older.append(frame)
        self.at = entry
        self.size += len(frame)
        self.full = self.size >= PAGE_BYTES
        self._pace = looked_through + 1


_Asker = TypeVar("_Asker", _Wanted, _Reader)


def _by_user(askers: Iterable[_Asker]) -> dict[str, list[_Asker]]:
    found: dict[str, list[_Asker]] = {}
    for asker in askers:
        if connection := asker.replay.connection:
            found.setdefault(connection.user_id, []).append(asker)
    return found


def _takers(
    notification: Notification, askers: list[_Asker], by_user: dict[str, list[_Asker]]
) -> Iterable[_Asker]:
    if notification.users is None:
        return askers
    return [asker for user in notification.users for asker in by_user.get(user, ())]


def _frame(notification: Notification, entry: EntryId) -> bytes:
    return sse.event(notification.data, name=notification.event, id=entry_text(entry))
