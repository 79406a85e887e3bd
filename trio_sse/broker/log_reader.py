"""Log → hub. No entry is missed. Runs inside the subscriber's asyncio task."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import trio_asyncio

from trio_sse.broker.link import answer_within, open_link
from trio_sse.broker.log import (
    Info,
    Pace,
    Place,
    before,
    read_after,
    read_back,
    read_info,
    wait_for_entry,
)
from trio_sse.broker.lookup import Lookup
from trio_sse.delivery import messages
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.hub import MAX_PENDING_BYTES, Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.resume import Resumer
from trio_sse.settings import Settings


class LogReader:
    """Reads one log, from where reading stopped.

    As a context manager it opens the link that `follow` uses. Entering it finds the place to read from. The
    first time that is the end of the log, and memory is filled with the entries before it.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        hub: Hub,
        resumer: Resumer,
        intake: Intake,
        *,
        block_seconds: float,
        silence_seconds: float,
        open_log: Callable[[], open_link] | None = None,
    ) -> None:
        """`open_log` opens a link to the Redis that has the log; else it is the Redis of the settings."""
        self._settings = settings
        self._key = key
        self._hub = hub
        self._intake = intake
        self._block_milliseconds = max(1, round(block_seconds * 1000))
        self._silence_seconds = silence_seconds
        self._resumer = resumer
        self._open_log = open_log or partial(open_link, settings, database=True)
        self._lookup = Lookup(
            settings, key, hub.history, resumer, decode=intake.decode, open_log=self._open_log
        )
        self._place: Place | None = None
        self._pace = Pace()

    async def __aenter__(self) -> None:
        self._opening = self._open_log()
        self._link = await self._opening.__aenter__()
        try:
            await self._find_place()
        except BaseException:
            await self._opening.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._opening.__aexit__()

    async def _find_place(self) -> None:
        info = await read_info(self._link, self._key)
        if self._place is None:
            await self._fill_memory(info)
            self._place = Place(info.last, info.added)
            if len(self._hub):  # they came while Redis was away: what they missed is not known
                self._hub.announce_gap("redis_reconnected")
        elif not self._place.is_in(info):
            self._begin_anew(self._place, info)

    def _begin_anew(self, place: Place, info: Info) -> None:
        """The log was made anew: what it shares with the one that was read is not known."""
        last = min(info.last, place.last)
        self._hub.history.restart(last, was_at=place.last)
        self._hub.snapshot.clear()
        self._hub.announce_gap("redis_reconnected")
        place.last = place.broken_off = last
        place.added = info.added if last == info.last else None

    async def _fill_memory(self, info: Info) -> None:
        """Keep the newest entries as if they had just been read."""
        settings, history = self._settings, self._hub.history
        oldest_kept = time.time() - settings.history_seconds
        found: list[tuple[EntryId, bytes]] = []
        end, seen, size, floor, pace = info.last, 0, 0, None, Pace()
        while floor is None:
            page = await read_back(self._link, self._key, end, (0, 0), pace)
            for entry, payload in page:
                end = before(entry)
                seen += 1
                if payload is not None and len(payload) > settings.max_message_bytes:
                    payload = None  # it would be refused, so only this page holds it
                size += len(payload or b"")
                old = entry[0] / 1000 < oldest_kept
                if old or seen > settings.history_messages or size > settings.history_bytes:
                    floor = entry
                    break
                if payload is not None:
                    found.append((entry, payload))
            if not pace.full:
                break
        now = time.time()
        if floor is not None:
            history.filled_from(floor, now - floor[0] / 1000)
        elif info.untrimmed:
            history.filled_from(end)
        else:  # nobody knows what was trimmed away
            history.filled_from(end, 0 if info.first is None else now - info.first[0] / 1000)
        while found:
            entry, payload = found.pop()  # frees the payload: what is kept is a copy
            try:
                notification = self._intake.decode(payload, settings.max_message_bytes, entry)
            except messages.MessageError:
                continue
            self._hub.remember(notification, entry, max(0.0, now - entry[0] / 1000))
        history.read_up_to(info.last)

    async def follow(self) -> None:
        """Give the hub each entry that is added, from where reading stopped, until Redis is lost."""
        history, behind = self._hub.history, True
        history.sources.log_is_behind()
        while True:
            if not behind:
                # What is added from now on is newer than the subscription to the channel.
                history.sources.log_caught_up(history.latest)
                async with answer_within(self._silence_seconds):
                    last = self._entered.last
                    await wait_for_entry(self._link, self._key, last, self._block_milliseconds)
            behind = await self._read_page(self._entered)
            if self._hub.pending_bytes > MAX_PENDING_BYTES:
                await trio_asyncio.trio_as_aio(self._hub.wait_taken)()

    async def _read_page(self, place: Place) -> bool:
        """Give the hub the next page. Returns whether there may be more."""
        info, entries = await read_after(self._link, self._key, place.last, self._pace)
        if not place.is_in(info):
            self._begin_anew(place, info)
            return True
        if place.misses_trimmed(info):
            self._hub.announce_gap("history_expired")
            place.skip_trimmed(info)
        with self._intake:
            for entry, payload in entries:
                self._intake.receive(payload, entry)
                place.advance(entry)
                self._hub.history.read_up_to(entry)
        place.was_read(info)
        self._resumer.reached(place.last)
        self._hub.log_lag = max(0, info.last[0] - place.last[0]) / 1000
        return self._pace.full

    async def answer_pending(self) -> None:
        """Answer pending replays from the log, until Redis is lost."""
        await self._lookup.answer_pending(self._entered)

    @property
    def _entered(self) -> Place:
        assert self._place is not None
        return self._place
