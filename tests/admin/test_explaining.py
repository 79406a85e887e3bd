"""What one process knows of a user, or of a message."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tests.support.inside import Client, flush_now, joined, new_hub, turns_of_others
from trio_sse.admin.explaining import MOST, Explainer, found
from trio_sse.admin.reports import Question, Report
from trio_sse.broker.control import Node
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.recorder import Recorder, Refusal
from trio_sse.delivery.stream_record import StreamRecord

NODE = Node("9f3c12ab77de", "host", 7)


class Process:
    """One with a recorder."""

    def __init__(self) -> None:
        self.hub: Hub = new_hub()
        self.recorder = self.hub.recorder = Recorder(1000, 1 << 20)
        self._intake = Intake(self.hub, 65536)
        self._explainer = Explainer(self.hub, self.recorder)

    def opened(self, user: str, topics: Iterable[str] = ()) -> Connection:
        connection = joined(self.hub, user, topics=topics)
        record = connection.record = StreamRecord(f"s-{user}", connection, connection.follows, "192.0.2.1")
        record.goes_on(0, self.hub.history.latest, None, 0, None, snapshot=False)
        self.recorder.opened(record)
        Client(connection)
        return connection

    def closed(self, connection: Connection) -> None:
        self.hub.leave(connection)
        assert connection.record is not None
        self.recorder.left(connection.record)

    def comes(self, **fields: object) -> None:
        self._intake.receive(json.dumps(fields).encode())
        flush_now(self.hub)

    def receives(self, payload: bytes | None, entry: EntryId) -> None:
        self._intake.receive(payload, entry)
        flush_now(self.hub)

    async def report(self, **question: object) -> Report:
        return await self._explainer.report(NODE, None, Question(**question))  # type: ignore[arg-type]


async def test_a_user_s_streams_and_latest_messages() -> None:
    process = Process()
    process.closed(process.opened("ann"))
    process.opened("ann", topics=["news"])
    for fields in (
        {"user_id": "ann"},
        {"user_id": "bob"},
        {"topic": "news"},
        {"user_id": "*"},
        {"topic": "x"},
    ):
        process.comes(**fields)
    report = await process.report(user="ann")
    assert [stream.state for stream in report.streams] == ["ended", "live"]
    assert report.streams[1].topics == ["news"]
    assert [(one.users, one.topics, one.everybody) for one in report.messages] == [
        ([], [], True),
        ([], ["news"], False),
        (["ann"], [], False),
    ]
    assert [[one.code for one in message.outcomes] for message in report.messages] == [
        ["after", "taken"],
        ["not_followed", "taken"],
        ["after", "taken"],
    ]


async def test_there_is_a_bound_to_what_is_told() -> None:
    process = Process()
    for n in range(MOST + 5):
        process.comes(user_id="ann", n=n)
        process.recorder.refused(Refusal(1.0, "ann", False, 401, "no", "x"))
    process.comes(user_id=[f"u{n}" for n in range(50)] + ["ann"])
    report = await process.report(user="ann")
    assert len(report.messages) == len(report.refusals) == MOST
    assert report.messages[0].users[0] == "ann", "whom it is about comes first"
    assert (len(report.messages[0].users), report.messages[0].more) == (10, 41)


async def test_one_message_by_its_id() -> None:
    process = Process()
    process.comes(user_id="ann", n=1)
    process.comes(user_id="ann", n=2)
    [message] = (await process.report(user="ann", id="9f3c12ab77de.2")).messages
    assert message.id == "9f3c12ab77de.2"
    for unknown in ("9f3c12ab77de.3", "000000000000.2", "5-0", "nonsense"):
        assert (await process.report(user="ann", id=unknown)).messages == []


async def test_one_that_another_process_knows_by_another_id() -> None:
    process = Process()
    for n in (1, 1, 2):
        process.comes(user_id="ann", n=n)
    known = (await process.report(user="ann")).messages
    asked = {"fingerprint": (known[2].fingerprint, known[2].size), "id": "000000000000.9"}
    [message] = (await process.report(user="ann", **asked, at=known[2].at)).messages
    assert message.id == "9f3c12ab77de.1", "the one that came at that time"
    assert (await process.report(user="ann", **asked, at=known[2].at + 60)).messages == []


async def test_a_message_without_a_user_is_counted_over_all_streams() -> None:
    process = Process()
    for user in ("ann", "bob", "eve"):
        process.opened(user)
    process.comes(user_id=["ann", "bob"])
    [message] = (await process.report(id="9f3c12ab77de.1")).messages
    assert message.counts == {"taken": 2, "other_user": 1}
    assert message.outcomes == []


async def test_bad_messages_and_refusals_are_those_of_the_user() -> None:
    process = Process()
    process.recorder.bad_message("not JSON", b'{"user_id":"ann"')
    process.recorder.bad_message("not JSON", b'{"user_id":"bob"')
    process.recorder.refused(Refusal(1.0, "ann", True, 401, "no", "192.0.2.9"))
    process.recorder.refused(Refusal(1.0, "bob", False, 401, "no", "192.0.2.9"))
    process.recorder.refused(Refusal(1.0, None, False, 400, "no", "192.0.2.9"))
    report = await process.report(user="ann")
    assert [one.reason for one in report.bad] == ["not JSON"]
    assert [(one.user, one.claimed) for one in report.refusals] == [("ann", True)]


async def test_a_refusal_is_one_of_whoever_was_asked_for_and_of_the_token_s_user() -> None:
    process = Process()
    process.recorder.refused(Refusal(1.0, "bob", False, 403, "no", "192.0.2.9", holder="eve"))
    for user in ("bob", "eve"):
        [refusal] = (await process.report(user=user)).refusals
        assert (refusal.user, refusal.holder) == ("bob", "eve")


async def test_an_entry_of_the_log_that_was_bad_or_had_expired_is_found_by_its_id() -> None:
    process = Process()
    process.receives(b"not JSON", (7, 0))
    process.receives(None, (8, 0))
    process.receives(b'{"user_id":"ann","expires_at":1}', (9, 0))
    for entry, reason in (("7-0", "not JSON"), ("8-0", "payload")):
        report = await process.report(user="ann", id=entry)
        [bad] = report.bad
        assert bad.asked
        assert reason in bad.reason
        assert report.messages == []
    [message] = (await process.report(user="ann", id="9-0")).messages
    assert message.id == "9-0"


async def test_other_tasks_run_while_much_is_looked_through() -> None:
    async with turns_of_others() as turns:
        assert await found(range(10_000), lambda n: n % 5000 == 0) == [0, 5000]
    assert turns.count >= 4
