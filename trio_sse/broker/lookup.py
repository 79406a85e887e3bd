"""Answers pending replays from the log. Runs in the subscriber's asyncio task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

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
from trio_sse.broker.replays import BegunReplay, NewReplay, by_target, takers
from trio_sse.delivery import messages
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.messages import Decode, Notification
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import PendingReplay, Resumer
from trio_sse.settings import Settings

WALK_BYTES = 4 * 1024 * 1024
"""Bytes that one walk through the log gives to all pending replays, at most. The next walk gives them
more."""

WALK_ENTRIES = 2500
"""Entries that one walk forwards reads. A replay for which it found nothing goes on from there in the
next."""

LINGER_SECONDS = 0.5
"""How long the link is kept for the next pending replay: one client needs page after page."""


class Lookup:
    """Answers pending replays: those that memory cannot serve.

    A walk backwards serves all new replays. It finds how far back the log may be read, what is missing there
    and how many messages each replay has. A replay of one page or less gets it at once. The others get theirs
    from walks forwards, page by page, each when the page before was sent. Replays that are near each other
    share a walk.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        history: History,
        resumer: Resumer,
        *,
        decode: Decode = messages.decode,
        open_log: Callable[[], open_link] | None = None,
    ) -> None:
        """`open_log` opens a link to the Redis that has the log; else it is the Redis of the settings."""
        self._settings = settings
        self._decode = decode
        self._open_log = open_log or partial(open_link, settings, database=True)
        self._key = key
        self._history = history
        self._resumer = resumer

    async def answer_pending(self, place: Place) -> None:
        """Answer pending replays until cancelled. Raises one of link.ERRORS; replays without an answer stay
        pending."""
        any_pending = self._resumer.any_pending
        while True:
            await any_pending.wait()
            async with self._open_log() as link:
                while any_pending.is_set():
                    await self._answer_all(link, place)
                    try:
                        async with asyncio.timeout(LINGER_SECONDS):
                            await any_pending.wait()
                    except TimeoutError:
                        break

    async def _answer_all(self, link: Link, place: Place) -> None:
        # A function of its own: local names of the loop would keep an answered connection until the next
        # replay.
        replays = self._resumer.take_pending()
        try:
            if new := [replay for replay in replays if replay.rest is None]:
                await self._answer_new(link, new, place)
            if begun := [BegunReplay(replay, replay.rest) for replay in replays if replay.rest]:
                await self._answer_begun(link, begun, place)
        finally:
            self._resumer.put_back(replay for replay in replays if not replay.answered)

    async def _answer_new(self, link: Link, replays: list[PendingReplay], place: Place) -> None:
        info = await read_info(link, self._key)
        history = self._history
        assert history.last_entry is not None
        # What memory has now. If it evicts more while we read, the replay becomes pending again.
        latest, current = history.latest, history.last_entry
        floor, oldest = history.floor, history.entry_floor
        wanted: list[NewReplay] = []
        for replay in replays:
            after = replay.after
            if after > max(current, info.last):
                self._resumer.answer(replay, latest, current, "unknown_id")
            elif after > current:
                self._resumer.defer(replay)  # another process has read further than we have
            elif replay.whole:
                wanted.append(NewReplay(replay, current, latest))
            elif after < oldest:
                wanted.append(NewReplay(replay, oldest, floor))
            else:  # this process has read that far meanwhile
                sequence = history.sequence_of(after)
                self._resumer.answer(replay, sequence, after, history.sources.replay_doubt(sequence))
        if not wanted:
            return
        # To a partition others lead that do not name an entry of it: a time, or the place of another one.
        whole = history.sources.partition is None
        reached = await self._look_back(link, wanted)
        # A copy: the place may move on while the answer is on its way.
        read = replace(place)
        info = await read_info(link, self._key)
        for want in wanted:
            replay, after = want.replay, want.replay.after
            there = read.is_in(info) and (info.untrimmed or after >= (info.first or info.last))
            intact = (
                there and after >= max(reached, place.broken_off) and not (whole and info.never_had(after))
            )
            gap = history.sources.replay_doubt(want.sequence) if intact else "history_expired"
            replay.older, replay.count = want.frames[::-1], want.count
            rest = None
            if want.paged:
                begins = after if intact else max(after, reached, before(info.first or (0, 0)))
                rest = Rest(begins, want.top, want.sequence, place.broken_off, FIRST_PAGE)
            self._resumer.answer(replay, want.sequence, want.top, gap, rest=rest)

    async def _look_back(self, link: Link, wanted: list[NewReplay]) -> EntryId:
        """Read the log backwards. Count the messages of each replay, and keep them if they fit a page.
        Returns the newest entry beyond the bound: all after it were read. (0, 0) if there is none."""
        followers = by_target(wanted)
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
                for want in takers(found, wanted, followers):
                    if want.replay.after < entry <= want.top:
                        want.count += 1
                        if not want.paged:
                            frame = frame or found.frame(self._history.sources.entry_text(entry))
                            room -= want.keep(frame, room)
            if not pace.full:
                return (0, 0)
            end = before(page[-1][0])

    async def _answer_begun(self, link: Link, readers: list[BegunReplay], place: Place) -> None:
        """Read the log forwards from the place of the first replay. Each replay whose place is passed gets a
        page, within what one walk may read and hold. The others stay pending."""
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

    def _hand_out(self, page: list[Entry], readers: list[BegunReplay], looked_through: int) -> int:
        """Give the entries to the replays whose page has room. `looked_through` entries were read before.
        Returns the bytes given; each frame counts once."""
        followers = by_target(readers)
        given = 0
        for entry, payload in page:
            looked_through += 1
            found = self._read(entry, payload)
            if found is None:
                continue
            frame = b""
            for reader in takers(found, readers, followers):
                if not reader.full and reader.at < entry <= reader.top:
                    frame = frame or found.frame(self._history.sources.entry_text(entry))
                    reader.add(entry, frame, looked_through)
            given += len(frame)
        return given

    def _answer_page(self, reader: BegunReplay) -> None:
        rest = reader.rest if reader.at < reader.top else None
        self._resumer.answer(reader.replay, reader.rest.sequence, reader.top, rest=rest)

    def _read(self, entry: EntryId, payload: bytes | None) -> Notification | None:
        if payload is None:
            return None
        try:
            found = self._decode(payload, self._settings.max_message_bytes, entry)
        except messages.MessageError:
            return None
        return None if found.expires_at is not None and found.expires_at <= time.time() else found
