"""What this process knows of a user, or of a message."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import trio

from trio_sse.admin.reports import (
    AwayReport,
    BadReport,
    MessageReport,
    OutcomeReport,
    Question,
    RefusalReport,
    Report,
    StreamReport,
)
from trio_sse.broker.control import Node
from trio_sse.delivery.event_ids import Position, entry_text, parse
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.outcomes import outcome
from trio_sse.delivery.partitions import Place, parse_place, part_text, place_text
from trio_sse.delivery.recorder import NO_SEQUENCE, BadMessage, MessageRecord, Recorder, Refusal
from trio_sse.delivery.stream_record import DROPPED, EXPIRED, SUPERSEDED, WAITED, StreamRecord
from trio_sse.delivery.targets import each, topic_name, topics_of, user_of

MOST = 20
"""Messages, refusals and bad messages that are shown."""

MOST_STREAMS = 50
MOST_TARGETS = 10
SAME_SECONDS = 10.0
"""The same message comes to all processes within so long."""

_SLICE = 2000

_T = TypeVar("_T")


class Explainer:
    """Looks up what the recorder has. Other tasks run in between."""

    def __init__(self, hub: Hub, recorder: Recorder) -> None:
        self._hub = hub
        self._recorder = recorder

    async def report(self, node: Node, problem: str | None, question: Question) -> Report:
        """All that is known of it here."""
        recorder, user = self._recorder, question.user
        now = time.time()
        records = await self._records(user) if user is not None else []
        report = Report(
            node,
            recorder.messages_since,
            recorder.streams_since,
            problem,
            [stream_report(one, node) for one in records[-MOST_STREAMS:]],
            max(0, len(records) - MOST_STREAMS),
            away=[AwayReport(began, why, ended, node.process) for began, ended, why in recorder.away()],
        )
        messages = await self._messages(question, records)
        report.messages = [await self._message_report(one, user, records, now) for one in messages]
        if user is not None:
            refusals = [one for one in recorder.refusals if user in (one.user, one.holder)]
            report.refusals = [refusal_report(one) for one in refusals[-MOST:]]
            name = user.encode()
            bad = [one for one in recorder.bad if name in one.beginning]
            report.bad = [bad_report(one, node) for one in bad[-MOST:]]
        if question.id is not None and question.fingerprint is None:
            position, place = parse(question.id), parse_place(question.id)
            asked = await found(recorder.bad, partial(_is_entry, position, place))
            named = [one for one in report.bad if all(one.at != other.at for other in asked)]
            report.bad = [*named, *(bad_report(one, node, asked=True) for one in asked)]
        return report

    async def _records(self, user: str) -> list[StreamRecord]:
        """The streams of a user, those that ended first."""
        ended = await found(self._recorder.ended, lambda one: user in each(one.follows))
        followers = [one.record for one in self._hub.followers(user)]
        return [*ended, *sorted([one for one in followers if one is not None], key=lambda one: one.opened)]

    async def _messages(self, question: Question, records: Sequence[StreamRecord]) -> list[MessageRecord]:
        """The message that is asked for, or the latest for the user."""
        newest_first = list(self._recorder.messages)[::-1]
        if question.fingerprint is not None:
            same = await found(newest_first, partial(_is_same, question))
            return [min(same, key=lambda one: abs(one.at - question.at))] if same else []
        if question.id is not None:
            position, place = parse(question.id), parse_place(question.id)
            return await found(newest_first, partial(self._is_at, position, place), 1)
        targets = {question.user, *(one for record in records for one in each(record.follows))}
        return await found(
            newest_first, lambda one: one.targets is None or not targets.isdisjoint(one.targets), MOST
        )

    def _is_at(self, position: Position | None, place: Place | None, message: MessageRecord) -> bool:
        ours = position is not None and position.process == self._hub.history.sources.process
        if position is not None and ours and message.partition is None:
            return message.sequence == position.sequence
        return message.from_log and _is_entry(position, place, message)

    def _id_of(self, message: MessageRecord) -> str:
        if message.partition is not None:
            return place_text([(message.partition, part_text(message.partition, message.entry))])
        if message.sequence != NO_SEQUENCE:
            return self._hub.history.sources.text(message.entry, message.sequence)
        return entry_text(message.entry) if message.from_log and message.entry is not None else ""

    async def _message_report(
        self, message: MessageRecord, user: str | None, records: Iterable[StreamRecord], now: float
    ) -> MessageReport:
        targets = message.targets or ()
        named = sorted(targets, key=lambda one: one != user)[:MOST_TARGETS]
        report = MessageReport(
            self._id_of(message),
            message.at,
            [one for one in named if topic_name(one) is None],
            [name for one in named if (name := topic_name(one)) is not None],
            message.targets is None,
            len(targets) - len(named),
            message.size,
            message.key,
            message.expires,
            message.fingerprint,
            message.from_log,
        )
        if user is not None:
            report.outcomes = [
                OutcomeReport(one.id, *outcome(one, message, now)) for one in list(records)[-MOST_STREAMS:]
            ]
        else:
            counts: Counter[str] = Counter()
            everyone = [*self._recorder.open.values(), *self._recorder.ended]
            for number, one in enumerate(everyone, 1):
                counts[outcome(one, message, now).code] += 1
                if number % _SLICE == 0:
                    await trio.lowlevel.checkpoint()
            report.counts = dict(counts)
        return report


def stream_report(record: StreamRecord, node: Node) -> StreamReport:
    strands, connection = record.strands, record.connection
    events = [event for one in strands for event in one.events or ()]
    if record.ended is not None:
        state = "ended"
    elif all(one.live is not None for one in strands):
        state = "live"
    else:
        state = "beginning" if any(one.after is None for one in strands) else "catching_up"
    return StreamReport(
        record.id,
        user_of(record.follows),
        topics_of(record.follows),
        record.address,
        record.opened,
        state,
        node.process,
        record.ended,
        record.why or None,
        record.resumed,
        sum([one.replayed for one in strands]),
        next((one.gap for one in strands if one.gap is not None), None),
        max([one.live_at or 0 for one in strands]) or None,
        sum([len(one.waiting) for one in strands]),
        min([one.waiting_since for one in strands if one.waiting_since is not None], default=None),
        connection.behind if connection is not None else None,
        sum([one.number for one in events if one.what == DROPPED]),
        sum([one.number for one in events if one.what == SUPERSEDED]),
        sum([one.number for one in events if one.what == EXPIRED]),
        max([one.ended - one.began for one in events if one.what == WAITED], default=0.0),
        record.jti,
        record.issued_at,
    )


def refusal_report(one: Refusal) -> RefusalReport:
    return RefusalReport(
        one.at, one.status, one.detail, one.address, one.user, one.claimed, one.holder, one.jti
    )


def bad_report(one: BadMessage, node: Node, *, asked: bool = False) -> BadReport:
    return BadReport(one.at, one.reason, one.size, node.process, asked)


def _is_entry(position: Position | None, place: Place | None, came: MessageRecord | BadMessage) -> bool:
    """Whether it is the entry of the log that the id names."""
    if came.entry is None:
        return False
    if came.partition is not None:  # the id of a stream may name a place in several
        return place is not None and place.parts.get(came.partition) == came.entry
    return position is not None and position.process is None and position.entry == came.entry


def _is_same(question: Question, message: MessageRecord) -> bool:
    same = question.fingerprint == (message.fingerprint, message.size)
    return same and abs(message.at - question.at) <= SAME_SECONDS


async def found(items: Iterable[_T], wanted: Callable[[_T], bool], most: int | None = None) -> list[_T]:
    """Those that are wanted, the first so many at most. Other tasks run in between."""
    picked: list[_T] = []
    for number, item in enumerate(list(items), 1):
        if wanted(item):
            picked.append(item)
            if len(picked) == most:
                break
        if number % _SLICE == 0:
            await trio.lowlevel.checkpoint()
    return picked
