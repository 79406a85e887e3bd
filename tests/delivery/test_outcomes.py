"""What became of a message for a stream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inside import joined, new_hub
from trio_sse.delivery.outcomes import Outcome, outcome
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.recorder import NO_SEQUENCE, MessageRecord
from trio_sse.delivery.stream_record import (
    DROPPED,
    EXPIRED,
    MISSING,
    SUPERSEDED,
    WAITED,
    Happened,
    StreamRecord,
)
from trio_sse.delivery.targets import topic

NOW = 2000.0


def message(sequence: int = 10, **more: Any) -> MessageRecord:
    fields: dict[str, Any] = {
        "at": 1000.0,
        "entry": None,
        "from_log": False,
        "partition": None,
        "targets": ("ann",),
        "fingerprint": 1,
        "size": 2,
        "key": None,
        "expires": None,
    }
    return MessageRecord(sequence=sequence, **{**fields, **more})


def record(**more: Any) -> StreamRecord:
    """A stream of Ann, live after 5, that has come to 20."""
    hub = new_hub()
    made = StreamRecord("s-1", joined(hub, "ann"), "ann")
    made.opened, made.after, made.live, made.live_at = 900.0, 5, 5, 901.0
    assert made.connection is not None
    made.connection.since = 20
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_what_the_socket_took_at_once() -> None:
    assert outcome(record(), message(), NOW) == Outcome("taken", 1000.0)


def test_everybody_s_too() -> None:
    assert outcome(record(), message(targets=None), NOW).code == "taken"


def test_of_others_and_of_other_topics() -> None:
    assert outcome(record(), message(targets=("bob",)), NOW).code == "other_user"
    assert outcome(record(), message(targets=(topic("news"),)), NOW).code == "not_followed"
    follows = ("ann", topic("news"))
    assert outcome(record(follows=follows), message(targets=(topic("news"),)), NOW).code == "taken"


@pytest.mark.parametrize(
    ("what", "code"),
    [(DROPPED, "dropped"), (SUPERSEDED, "superseded"), (EXPIRED, "expired"), (MISSING, "missing")],
)
def test_what_happened_to_it(what: str, code: str) -> None:
    events = [Happened(what, 9, 11, 2, 1001.0, 1002.0)]
    assert outcome(record(events=events), message(), NOW) == Outcome(code, 1002.0)
    assert outcome(record(events=events), message(12), NOW).code == "taken"
    assert outcome(record(events=events), message(8), NOW).code == "taken"


def test_what_the_client_took_late() -> None:
    events = [Happened(WAITED, 9, 11, 2, 1001.0, 1004.5)]
    assert outcome(record(events=events), message(), NOW) == Outcome("waited", 1004.5, 4.5)


def test_what_waits() -> None:
    waits = record(waiting=[9, 10])
    assert outcome(waits, message(), NOW) == Outcome("waiting", None, 1000.0)
    assert outcome(waits, message(expires=1500.0), NOW) == Outcome("expired", 1500.0)
    assert outcome(waits, message(expires=2500.0), NOW).code == "waiting"
    waits.ended = 1300.0
    assert outcome(waits, message(), NOW) == Outcome("unsent", 1300.0)


def test_what_was_replayed() -> None:
    assert outcome(record(live=15), message(), NOW) == Outcome("replayed", 901.0)
    behind = record(live=None, live_at=None)
    assert outcome(behind, message(), NOW).code == "replayed"
    assert outcome(behind, message(21), NOW).code == "catching_up"


def test_a_stream_whose_place_is_not_known_yet() -> None:
    assert outcome(record(after=None, live=None), message(), NOW).code == "catching_up"


def test_what_came_before_the_stream() -> None:
    assert outcome(record(), message(5, at=800.0), NOW) == Outcome("before", 900.0)
    assert outcome(record(gap="history_expired"), message(5, at=800.0), NOW).code == "missing"
    assert outcome(record(snapshot=True), message(5, at=800.0, key="k"), NOW).code == "snapshot"
    assert outcome(record(snapshot=True), message(5, at=800.0), NOW).code == "before"


def test_what_came_before_the_stream_and_from_the_log() -> None:
    resumed = record(log_after=(7, 0))
    assert outcome(resumed, message(5, entry=(8, 0), from_log=True), NOW).code == "replayed"
    assert outcome(resumed, message(5, entry=(7, 0), from_log=True), NOW).code == "before"
    waits = record(log_after=(7, 0), live=None, live_at=None)
    assert outcome(waits, message(5, entry=(8, 0), from_log=True), NOW).code == "catching_up"


def test_what_came_after_its_end() -> None:
    ended = record(ended=950.0, connection=None, last=9)
    assert outcome(ended, message(), NOW) == Outcome("after", 950.0)
    assert outcome(ended, message(9, at=940.0), NOW).code == "taken"
    assert outcome(ended, message(10, at=940.0), NOW).code == "unsent"


def test_what_had_expired_when_it_came() -> None:
    assert outcome(record(), message(NO_SEQUENCE), NOW) == Outcome("expired", 1000.0)


def test_what_is_not_known_any_more() -> None:
    assert outcome(record(forgotten=10), message(), NOW).code == "forgotten"
    assert outcome(record(forgotten=10), message(11), NOW).code == "taken"


def test_in_partitions_what_counts_is_what_the_one_of_the_message_has() -> None:
    here, other = Partition(8, 1), Partition(8, 2)
    stream = record()
    for partition, since in ((here, 20), (other, 3)):
        strand = joined(new_hub(), "ann")
        strand.since = since
        part = stream.part(partition, strand, "ann")
        part.after = part.live = 2
    assert outcome(stream, message(partition=here), NOW).code == "taken"
    assert outcome(stream, message(partition=other), NOW).code == "catching_up"
    stream.parts[here].waiting = [10]
    assert outcome(stream, message(partition=here), NOW).code == "waiting"
    assert outcome(stream, message(partition=Partition(8, 5)), NOW).code == "catching_up"
    stream.ends("auth_expired")
    stream.leaves()
    assert stream.parts[other].last == 3
    assert outcome(stream, message(partition=here), NOW).code == "unsent"
