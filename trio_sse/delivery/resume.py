"""Where a client that comes back goes on from: memory, the Redis stream, or a declared `gap`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from trio_sse.delivery import notices
from trio_sse.delivery.connection import Connection, Rest
from trio_sse.delivery.event_ids import Position, StreamId, parse, stream_text
from trio_sse.delivery.history import History


class FromMemory(NamedTuple):
    """Go on after the number `after`; `gap` is the reason why messages before it are missing, if they are."""

    after: int
    gap: str | None = None


class FromStream(NamedTuple):
    """Only the Redis stream can tell what came after its entry `after`."""

    after: StreamId
    gap: str | None = None
    whole: bool = False
    """Whether the stream is to tell all of it, because what memory keeps is mixed with the channel's."""


def decide(position: Position | None, history: History) -> FromMemory | FromStream:
    """Where to go on from `position`, which is None when it could not be read.

    A position that this process gave counts by its number, any other by the stream's entry in it. What
    came by the channel in another process is not known here: a `gap` says so once the channel is in use.
    """
    if position is None:
        return FromMemory(history.latest, "unknown_id")
    ours = position.process == history.process and position.sequence <= history.latest
    if ours and position.sequence >= history.floor:
        return FromMemory(position.sequence)
    if not history.streaming or position.stream is None:
        return (
            FromMemory(history.floor, "history_expired") if ours else FromMemory(history.latest, "unknown_id")
        )
    doubt = "unknown_id" if history.is_doubtful(position.stream) else None
    if history.stream is None or not history.stream_floor <= position.stream <= history.stream:
        unsure = position.process is not None or history.channel_since is not None
        reason = ("history_expired" if ours else "unknown_id") if unsure else doubt
        return FromStream(position.stream, reason, whole=unsure and not ours)
    if ours:  # all that is gone came by the channel
        return FromMemory(history.floor, "history_expired")
    number = history.number(position.stream)
    if position.process is None and (history.channel_since is None or history.channel_since > number):
        # It has had nothing by the channel. What came so before this process listened nobody knows.
        return FromMemory(number, doubt or history.channel_doubt(number))
    # Messages of the channel are among those kept, and the client may have had them from another process.
    return FromStream(position.stream, "unknown_id", whole=True)


@dataclass(slots=True, eq=False)
class Question:
    """A connection that waits for what only the stream can tell: what came after `after`, or the next page of
    its `rest`. It is not held by this: who leaves while Redis answers is gone."""

    asked_by: weakref.ref[Connection]
    after: StreamId
    gap: str | None
    greet: bool = False
    whole: bool = False
    rest: Rest | None = None
    older: list[bytes] = field(default_factory=list)
    """Filled by the reader of the stream: all of it, or a page."""
    count: int = 0
    """How many messages the stream has for it in all."""
    answered: bool = False

    @property
    def connection(self) -> Connection | None:
        """Who asks. None when it has left."""
        connection = self.asked_by()
        return None if connection is None or connection.closed else connection


class Replays:
    """Lets connections begin. Those that memory cannot help are `questions` for the reader of the stream."""

    def __init__(self, history: History, *, heartbeat_seconds: float) -> None:
        self.questions: dict[Connection, Question] = {}
        """Those that can be answered now."""
        self.ahead: dict[Connection, Question] = {}
        """Those that ask for what follows an entry that has not been read yet."""
        self.asked = asyncio.Event()
        """Set while there are questions."""
        self._history = history
        self._heartbeat_seconds = heartbeat_seconds

    def begin(self, connection: Connection, last_event_id: str | None) -> None:
        """Let `connection` begin after the message with this id, or now without one."""
        if last_event_id is None:
            self._go_on(connection, FromMemory(self._history.latest))
            return
        self._history.evict()
        place = decide(parse(last_event_id), self._history)
        if isinstance(place, FromMemory):
            self._go_on(connection, place)
        else:
            self._ask(
                Question(weakref.ref(connection), place.after, place.gap, greet=True, whole=place.whole)
            )

    def fell_behind(self, connection: Connection, at: StreamId | None) -> None:
        """What `connection` was to get next is no longer in memory: it catches up too slowly. `at` is the
        stream's entry it has come to."""
        history = self._history
        if at is None:
            self._go_on(connection, FromMemory(history.floor, "history_expired"), greet=False)
        else:
            gone = history.channel_since is not None or history.is_doubtful(at)
            self._ask(Question(weakref.ref(connection), at, "history_expired" if gone else None))

    def fetch(self, connection: Connection, rest: Rest) -> None:
        """`connection` has taken all it was given, and is to get the next page of `rest`."""
        self._ask(Question(weakref.ref(connection), rest.after, None, rest=rest))

    def answer(
        self, question: Question, after: int, at: StreamId | None, gap: str | None = None, *,
        rest: Rest | None = None,
    ) -> None:  # fmt: skip
        """Let a connection go on: with `question.older`, then the `rest` that is in the stream, then after
        the number `after`, which is the stream's entry `at`. What is missing before all this is declared by
        `gap`."""
        question.answered = True
        if connection := question.connection:
            place = FromMemory(after, question.gap or gap)
            self._go_on(connection, place, at=at, question=question, greet=question.greet, rest=rest)

    def take_questions(self) -> list[Question]:
        """All that can be answered now, for the caller to answer."""
        questions, self.questions = list(self.questions.values()), {}
        self.asked.clear()
        return questions

    def put_back(self, questions: Iterable[Question]) -> None:
        """These could not be answered: they are the first of the next time."""
        later, self.questions = self.questions, {}
        for question in questions:
            question.answered = False
            self._ask(question)
        self.questions.update(later)

    def put_back_last(self, question: Question, rest: Rest) -> None:
        """This one has had its turn, which left this `rest` and brought nothing for it."""
        question.answered = True
        self._ask(replace(question, rest=rest, answered=False))

    def put_ahead(self, question: Question) -> None:
        """This one can be answered when its entry has been read."""
        question.answered = True
        if connection := question.connection:
            self.ahead[connection] = question

    def reached(self, entry: StreamId) -> None:
        """The stream has been read up to this entry."""
        if self.ahead:
            found = {who: question for who, question in self.ahead.items() if question.after <= entry}
            for connection in found:
                del self.ahead[connection]
            self.put_back(found.values())

    def forget(self, connection: Connection) -> None:
        """It has left. Harmless when it asked nothing."""
        self.questions.pop(connection, None)
        self.ahead.pop(connection, None)

    def _ask(self, question: Question) -> None:
        if connection := question.connection:
            self.questions[connection] = question
            self.asked.set()

    def _go_on(
        self, connection: Connection, place: FromMemory, *, at: StreamId | None = None,
        question: Question | None = None, greet: bool = True, rest: Rest | None = None,
    ) -> None:  # fmt: skip
        history = self._history
        after, gap = place
        older: list[bytes] = question.older if question else []
        # Whoever is cut off in between must come back with an id that stands before what it did not get.
        from_stream = question is not None and (older or rest)
        position = stream_text(question.after) if question and from_stream else history.text(after)
        said = b""
        if greet:
            said = notices.connected(
                connection.user_id,
                connection.id,
                self._heartbeat_seconds,
                position=None if gap else position,
                replayed=(question.count if question else 0) + history.count(connection.user_id, after),
            )
        if gap:
            said += notices.gap(gap, None, id=None if from_stream else position)
        connection.begin(said, after, older, at=at, rest=rest)
