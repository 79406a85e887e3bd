"""What became of one message for one stream, by the records of both. Pure."""

from __future__ import annotations

from typing import NamedTuple

from trio_sse.delivery.recorder import NO_SEQUENCE, MessageRecord
from trio_sse.delivery.stream_record import DROPPED, EXPIRED, MISSING, SUPERSEDED, WAITED, StreamRecord
from trio_sse.delivery.targets import each, topic_name


class Outcome(NamedTuple):
    """One of:

    taken           its socket took it at once, `at` that time
    waited          it took it `seconds` later, at `at`
    replayed        it came back for it, or began with it, and had caught up at `at`
    waiting         it waits, for `seconds` by now: the client does not take it
    catching_up     the client is being given older messages first
    unsent          it still waited when the stream ended
    dropped         there was no room; the client was told by a `gap`
    superseded      a newer one of its key took its place
    expired         it expired before the client took it, or before it came
    missing         the client came too late for it; it was told by a `gap`
    before          it came before the stream began, and the stream did not ask for it
    snapshot        likewise; but the stream began with the newest message of each key, and may have this one
    after           the stream had ended
    other_user      it is for other users
    not_followed    it is for topics that the stream does not follow
    forgotten       too much happened to the stream since
    """

    code: str
    at: float | None = None
    seconds: float | None = None


_ENDS_OF = {DROPPED: "dropped", SUPERSEDED: "superseded", EXPIRED: "expired", MISSING: "missing"}


def is_for(record: StreamRecord, message: MessageRecord) -> bool:
    """Whether the stream follows something that the message is for."""
    return message.targets is None or not set(each(record.follows)).isdisjoint(message.targets)


def outcome(record: StreamRecord, message: MessageRecord, now: float) -> Outcome:
    """What became of it there."""
    if not is_for(record, message):
        topics = message.targets and any(topic_name(one) is not None for one in message.targets)
        return Outcome("not_followed" if topics else "other_user")
    sequence = message.sequence
    if sequence == NO_SEQUENCE:
        return Outcome("expired", message.at)
    if message.partition is not None:
        part = record.parts.get(message.partition)
        if part is None:  # it does not know yet where to begin
            return Outcome("catching_up") if record.ended is None else Outcome("after", record.ended)
        record = part
    if record.after is not None and sequence <= record.after:
        return _at_the_beginning(record, message)
    for event in record.events or ():
        if event.first <= sequence <= event.last:
            if event.what in _ENDS_OF:
                return Outcome(_ENDS_OF[event.what], event.ended)
            if event.what == WAITED:
                return Outcome("waited", event.ended, max(0.0, event.ended - message.at))
    if sequence in record.waiting:
        if message.expires is not None and message.expires <= (record.ended or now):
            return Outcome("expired", message.expires)
        if record.ended is not None:
            return Outcome("unsent", record.ended)
        return Outcome("waiting", None, max(0.0, now - message.at))
    if sequence > record.reached or record.after is None:
        if record.ended is None:
            return Outcome("catching_up")
        return Outcome("after" if message.at > record.ended else "unsent", record.ended)
    if sequence <= record.forgotten:
        return Outcome("forgotten")
    if record.live is None or sequence <= record.live:
        return Outcome("replayed", record.live_at or record.ended)
    return Outcome("taken", message.at)


def _at_the_beginning(record: StreamRecord, message: MessageRecord) -> Outcome:
    """Of a message that had come when the stream's place was found."""
    came_from_log = message.from_log and record.log_after is not None and message.entry is not None
    if came_from_log and message.entry > record.log_after:  # type: ignore[operator]
        if record.live is None and record.ended is None:
            return Outcome("catching_up")
        return Outcome("replayed", record.live_at or record.ended)
    if record.snapshot and message.key is not None:
        return Outcome("snapshot", record.opened)
    return Outcome("missing" if record.gap else "before", record.opened)
