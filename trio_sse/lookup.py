"""What memory no longer keeps, found in the Redis stream for those who ask. Runs in the subscriber's asyncio
task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from redis.asyncio import Connection

from trio_sse import messages, wire
from trio_sse.history import History
from trio_sse.positions import StreamId, stream_text
from trio_sse.redis_link import connected
from trio_sse.redis_stream import PAGE, Place, before, behind, read_back, read_info
from trio_sse.replays import Question, Replays
from trio_sse.settings import Settings


class Lookup:
    """Answers the questions of connections that memory cannot help: one walk for all who ask."""

    def __init__(self, settings: Settings, key: str, history: History, replays: Replays) -> None:
        self._settings = settings
        self._key = key
        self._history = history
        self._replays = replays

    async def answer_questions(self, place: Place) -> None:
        """Until cancelled. Raises one of redis_link.ERRORS, with the questions kept for the next time."""
        while True:
            await self._replays.asked.wait()
            await self._answer_those_that_ask(place)

    async def _answer_those_that_ask(self, place: Place) -> None:
        # Apart from the loop: a name of its frame would hold whoever was answered until somebody else asks.
        questions = self._replays.take_questions()
        try:
            async with connected(self._settings) as redis:
                await self._answer(redis, questions, place)
        except BaseException:
            self._replays.put_back(question for question in questions if not question.answered)
            raise

    async def _answer(self, redis: Connection, questions: list[Question], place: Place) -> None:
        info = await read_info(redis, self._key)
        history = self._history
        assert history.stream is not None
        # What memory has at this moment. It is asked again if it loses more while we read.
        latest, current, floor, oldest = history.latest, history.stream, history.floor, history.stream_floor
        wanted: list[_Wanted] = []
        for question in questions:
            after = question.after
            if after > max(current, info.last):
                self._replays.answer(question, latest, current, "unknown_id")
            elif after > current:
                self._replays.put_ahead(question)  # another process has read further than we have
            elif question.whole:
                wanted.append(_Wanted(question, current, latest))
            elif after < oldest:
                wanted.append(_Wanted(question, oldest, floor))
            else:  # since it was asked, this process has read so far
                number = history.number(after)
                self._replays.answer(question, number, after, self._channel_before(number))
        if not wanted:
            return
        reached = await self._walk(redis, wanted)
        # While the answer is on its way, more may be read than it knows of.
        read = replace(place)
        info = await read_info(redis, self._key)
        for want in wanted:
            after = want.question.after
            there = read.is_in(info) and (info.untrimmed or after >= (info.first or info.last))
            intact = there and after >= max(reached, place.broken_off)
            gap = self._channel_before(want.number) if intact else "history_expired"
            want.question.older.reverse()
            self._replays.answer(want.question, want.number, want.top, gap)

    def _channel_before(self, number: int) -> str | None:
        """Why messages up to this number may be missing, though all of the stream is there: whoever had to
        ask said nothing of what it has had by the channel."""
        since = self._history.channel_since
        return "unknown_id" if since is not None and since <= number else None

    async def _walk(self, redis: Connection, wanted: list[_Wanted]) -> StreamId:
        """Read the stream backwards and give each question what is for it. Returns the newest entry that is
        beyond the bounds: all after it was read. (0, 0) if there is none."""
        by_user: dict[str, list[_Wanted]] = {}
        for want in wanted:
            want.question.older.clear()
            by_user.setdefault(want.question.connection.user_id, []).append(want)
        low = behind(min(want.question.after for want in wanted))
        end = max(want.top for want in wanted)
        limit, room = self._settings.replay_limit, max(self._settings.history_bytes, 1)
        while True:
            page = await read_back(redis, self._key, end, low, PAGE)
            full = room <= 0
            for entry, payload in page:
                if full or limit <= 0:
                    return entry
                limit -= 1
                if payload is not None:
                    room -= self._hand_out(entry, payload, by_user, wanted)
            if len(page) < PAGE:
                return (0, 0)
            end = before(page[-1][0])

    def _hand_out(
        self, entry: StreamId, payload: bytes, by_user: dict[str, list[_Wanted]], wanted: list[_Wanted]
    ) -> int:
        """Add an entry to the questions it is for. Returns its bytes, if anybody took it."""
        try:
            notification = messages.decode(payload, self._settings.max_message_bytes, entry)
        except messages.MessageError:
            return 0
        if notification.users is None:
            takers: Iterable[_Wanted] = wanted
        else:
            takers = (want for user in notification.users for want in by_user.get(user, ()))
        frame = b""
        for want in takers:
            if want.question.after < entry <= want.top:
                frame = frame or wire.event(notification.data, name=notification.event, id=stream_text(entry))
                want.question.older.append(frame)
        return len(frame)


class _Wanted(NamedTuple):
    question: Question
    top: StreamId
    """The entry up to which the stream is to tell."""
    number: int
    """The number from which on memory does."""
