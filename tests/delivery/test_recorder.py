"""What is remembered is bounded, and it is known since when it is all there is."""

from __future__ import annotations

import json

import pytest

from tests.support.inside import joined, new_hub
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.recorder import BAD_BYTES, NO_SEQUENCE, Recorder, Ring
from trio_sse.delivery.stream_record import StreamRecord


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def recording(most: int = 100) -> tuple[Hub, Recorder, Intake]:
    hub = new_hub()
    hub.recorder = Recorder(most, 1 << 20, Clock())
    return hub, hub.recorder, Intake(hub, 65536)


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_a_ring_keeps_the_newest_up_to_a_number_and_to_so_many_bytes() -> None:
    ring: Ring[int] = Ring(3, 100)
    for number in range(5):
        ring.add(number, 10)
    assert (list(ring), ring.dropped) == ([2, 3, 4], 2)
    ring.add(5, 95)
    assert list(ring) == [5]
    ring.add(6, 1000)
    assert len(ring) == 0, "one that is too large alone is not kept either"


def test_a_message_is_remembered_with_whom_it_was_for_and_when_it_came() -> None:
    hub, recorder, intake = recording()
    intake.receive(payload(user_id=["ann", "bob"], topic="news", message="secret"))
    intake.receive(payload(user_id="*", key="k"), entry=(17, 3))
    first, second = recorder.messages
    assert first.targets is not None
    assert set(first.targets) == {"ann", "bob", "\0news"}
    assert (first.sequence, first.from_log, first.at) == (1, False, 1002.0)
    assert (second.targets, second.entry, second.from_log, second.key) == (None, (17, 3), True, "k")
    assert first.fingerprint != second.fingerprint
    assert hub.history.latest == 2


def test_the_same_message_has_the_same_fingerprint_everywhere() -> None:
    _, one, intake = recording()
    _, other, other_intake = recording()
    intake.receive(payload(user_id="first"))
    intake.receive(payload(user_id="ann"))
    other_intake.receive(payload(user_id="ann"))
    assert [*one.messages][1].fingerprint == next(iter(other.messages)).fingerprint


def test_one_that_has_expired_when_it_comes_has_no_place() -> None:
    _, recorder, intake = recording()
    intake.receive(payload(user_id="ann", expires_at=1))
    assert [message.sequence for message in recorder.messages] == [NO_SEQUENCE]


async def test_of_what_is_no_message_little_is_kept() -> None:
    _, recorder, intake = recording()
    intake.receive(b'{"user_id":"ann' + b"x" * 10_000)
    [bad] = recorder.bad
    assert bad.size == 10_015
    assert len(bad.beginning) == BAD_BYTES
    assert [trouble.kind for trouble in recorder.troubles] == ["bad_message"]


def test_a_gap_for_all_is_a_trouble() -> None:
    hub, recorder, _ = recording()
    hub.announce_gap("redis_reconnected")
    hub.announce_gap_to("redis_reconnected", ["ann"])
    assert [trouble.kind for trouble in recorder.troubles] == ["gap", "gap"]


def test_since_when_all_messages_are_known() -> None:
    _, recorder, intake = recording(2)
    assert recorder.messages_since == recorder.since
    for n in range(4):
        intake.receive(payload(user_id="ann", n=n))
    assert recorder.messages_since == next(iter(recorder.messages)).at


def test_a_stream_is_known_while_it_is_open_and_after() -> None:
    hub, recorder, _ = recording(1)
    for name in ("a", "b"):
        connection = joined(hub)
        record = StreamRecord(name, connection, "1")
        recorder.opened(record)
        assert list(recorder.open) == [name]
        hub.leave(connection)
        recorder.left(record)
        recorder.left(record)
        assert [one.id for one in recorder.ended] == [name]
    assert recorder.open == {}
    assert recorder.streams_since == next(iter(recorder.ended)).ended


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ([], []),
        (["redis_lost", "redis_back"], [(1002.0, 1003.0)]),
        (["redis_back", "redis_lost", "redis_lost", "gap"], [(1003.0, None)]),
        (["redis_lost", "redis_back", "redis_lost"], [(1002.0, 1003.0), (1004.0, None)]),
    ],
)
def test_when_redis_was_away(kinds: list[str], found: list[tuple[float, float | None]]) -> None:
    recorder = Recorder(10, 1000, Clock())
    for kind in kinds:
        recorder.trouble(kind, "why")
    assert [away[:2] for away in recorder.away()] == found


def test_a_message_that_waited_before_it_was_read_came_earlier() -> None:
    recorder = Recorder(10, 1 << 20, Clock())
    recorder.message(1, None, None, b"{}", from_log=True, age=0.5)
    assert next(iter(recorder.messages)).at == 1001.5


def test_a_stream_that_is_left_twice_has_ended_once() -> None:
    recorder = Recorder(10, 1 << 20)
    record = StreamRecord("1", joined(new_hub(), "ann"), "ann")
    recorder.opened(record)
    for _ in range(2):
        recorder.left(record)
    assert list(recorder.ended) == [record]


def test_of_a_trouble_only_the_beginning_is_kept() -> None:
    recorder = Recorder(10, 1 << 20)
    recorder.trouble("gap", "x" * 1000)
    assert len(recorder.troubles[0].detail) == 300
