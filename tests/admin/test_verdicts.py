"""What the records of all processes come to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trio_sse.admin.reports import (
    AwayReport,
    BadReport,
    MessageReport,
    OutcomeReport,
    RefusalReport,
    Report,
    StreamReport,
)
from trio_sse.admin.verdicts import Verdict, story
from trio_sse.broker.control import Node


def process(name: str = "p", **more: Any) -> Report:
    return Report(Node(name, "host", 1), 100.0, 200.0, **more)


def stream(id: str = "s-1", opened: float = 900.0, **more: Any) -> StreamReport:  # noqa: A002
    more.setdefault("state", "ended" if "ended" in more else "live")
    return StreamReport(id, "ann", [], "192.0.2.1", opened, **more)


def message(*outcomes: OutcomeReport, **more: Any) -> MessageReport:
    fields: dict[str, Any] = {"users": ["ann"], "topics": [], "fingerprint": 7, "size": 3, "id": "p.1"}
    return MessageReport(**{**fields, "at": 1000.0, "outcomes": list(outcomes), **more})


def verdict(*reports: Report, user: str = "ann", id: str | None = "p.1") -> Verdict:  # noqa: A002
    return story(user, id, reports).verdict


def test_of_several_streams_the_one_that_got_it_counts() -> None:
    outcomes = [OutcomeReport("s-1", "dropped"), OutcomeReport("s-2", "taken", 1000.5)]
    assert verdict(process(messages=[message(*outcomes)])) == Verdict("taken", "", 1000.5, "s-2")


def test_it_may_be_a_stream_of_another_process_which_has_another_id() -> None:
    here = process("p", messages=[message(OutcomeReport("s-1", "before"))])
    there = process("q", messages=[message(OutcomeReport("s-2", "waited", 1003.0, 3.0), id="q.5")])
    found = story("ann", "p.1", [here, there])
    assert found.verdict == Verdict("waited", "3.0 s", 1003.0, "s-2")
    assert [told.ids for told in found.messages] == [["p.1", "q.5"]]
    assert [one.stream for one in found.messages[0].message.outcomes] == ["s-1", "s-2"]


def test_an_entry_of_the_log_is_one_message_whatever_place_of_the_channel_its_ids_name() -> None:
    """With a channel beside the log each process adds a place of its own."""
    ids = ("1795694391503-0/9f3c12ab77de.4", "1795694391503-0/0b3c12ab77de.9", "1795694391503-0")
    codes = ("before", "taken", "before")
    reports = [
        process(str(n), messages=[message(OutcomeReport("s-1", code), id=own, from_log=True)])
        for n, (own, code) in enumerate(zip(ids, codes, strict=True))
    ]
    found = story("ann", ids[2], reports)
    assert found.verdict.code == "taken"
    assert [told.ids for told in found.messages] == [list(ids)]


def test_an_entry_that_could_not_be_delivered_says_why_and_not_that_nobody_has_seen_it() -> None:
    bad = BadReport(1000.0, "not JSON", 17, "p")
    asked = msgspec.structs.replace(bad, asked=True, reason="no payload")
    away = AwayReport(900.0, "refused")
    assert verdict(process(bad=[asked, bad], away=[away])) == Verdict("rejected", "no payload", 1000.0)


def test_messages_that_are_equal_are_told_apart_and_the_newest_comes_first() -> None:
    first, second = message(id="p.1", at=1000.0), message(id="p.2", at=1001.0)
    other = [message(id="q.8", at=1001.1), message(id="q.7", at=1000.1)]
    found = story("ann", None, [process(messages=[second, first]), process("q", messages=other)])
    assert [told.ids for told in found.messages] == [["p.2", "q.8"], ["p.1", "q.7"]]


def test_it_was_for_others_or_for_what_nobody_follows() -> None:
    others = message(OutcomeReport("s-1", "other_user"), users=["bob"])
    assert verdict(process(messages=[others], streams=[stream()])).code == "other_user"
    topics = message(OutcomeReport("s-1", "not_followed"), users=[], topics=["news"])
    assert verdict(process(messages=[topics], streams=[stream()])).code == "not_followed"
    assert verdict(process(messages=[message(users=["bob"])])).code == "other_user"


def test_a_topic_that_the_user_had_followed_is_no_topic_of_others() -> None:
    topics = message(OutcomeReport("s-1", "after"), users=[], topics=["news"])
    streams = [stream(ended=950.0, why="left")]
    assert verdict(process(messages=[topics], streams=streams)) == Verdict(
        "not_connected", "left", 950.0, "s-1"
    )


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("left", "not_connected"),
        ("write_timeout", "not_connected"),
        ("auth_expired", "not_connected"),
        ("auth_revoked", "revoked"),
        ("ended_by_operator", "ended_by_operator"),
    ],
)
def test_why_the_last_stream_had_ended(why: str, code: str) -> None:
    streams = [stream("s-0", ended=800.0, why="left"), stream(ended=950.0, why=why), stream("s-2", 1100.0)]
    found = verdict(process(messages=[message()], streams=streams))
    assert (found.code, found.detail, found.at, found.stream) == (code, why, 950.0, "s-1")


def test_the_user_came_later() -> None:
    assert verdict(process(messages=[message()], streams=[stream(opened=1100.0)])) == Verdict(
        "not_connected", "", 1100.0, "s-1"
    )


def test_the_user_was_refused() -> None:
    refusals = [
        RefusalReport(500.0, 401, "old", "x", "ann"),
        RefusalReport(990.0, 403, "not yours", "x", "ann"),
    ]
    assert verdict(process(messages=[message()], refusals=refusals)) == Verdict(
        "refused", "403: not yours", 990.0
    )
    left_since = [stream(ended=995.0, why="left")]
    found = verdict(process(messages=[message()], refusals=refusals, streams=left_since))
    assert found.code == "not_connected", "it was let in after it had been refused"
    left_before = [stream(ended=980.0, why="left")]
    assert verdict(process(messages=[message()], refusals=refusals, streams=left_before)).code == "refused"


def test_the_user_was_never_there_as_far_as_is_known() -> None:
    assert verdict(process(messages=[message()])) == Verdict("never_connected", "", 200.0)


def test_why_no_process_knows_the_message() -> None:
    assert verdict(process()) == Verdict("unknown_message", "", 100.0)
    bad = [BadReport(999.0, "not JSON", 10, "p")]
    assert verdict(process(bad=bad)) == Verdict("bad_message", "not JSON", 999.0)
    away = [AwayReport(990.0, "Redis at x: gone", 1005.0, "p")]
    assert verdict(process(bad=bad, away=away)) == Verdict("redis_away", "Redis at x: gone", 990.0)


def test_without_a_message_it_is_said_whether_the_user_is_here() -> None:
    assert verdict(process(streams=[stream()]), id=None) == Verdict("ok", "", 900.0)
    assert verdict(process(), id=None).code == "never_connected"
    gone = [stream(ended=950.0, why="left")]
    assert verdict(process(streams=gone), id=None) == Verdict("not_connected", "left", 950.0, "s-1")


def test_with_one_channel_for_all_each_process_has_the_same_bad_messages() -> None:
    bad = [BadReport(1.0, "not JSON", 10, "p"), BadReport(2.0, "not JSON", 10, "p")]
    same = [BadReport(1.1, "not JSON", 10, "q"), BadReport(50.0, "not JSON", 10, "q")]
    found = story("ann", None, [process(bad=bad), process("q", bad=same)])
    assert [one.at for one in found.bad] == [1.0, 2.0, 50.0]


def test_what_is_missing_says_why() -> None:
    streams = [stream(gap="history_expired")]
    found = verdict(process(messages=[message(OutcomeReport("s-1", "missing"))], streams=streams))
    assert (found.code, found.detail) == ("missing", "history_expired")


def test_without_a_user_it_is_counted_what_became_of_it() -> None:
    one, other = message(counts={"taken": 2, "before": 1}), message(counts={"taken": 3}, id="q.1")
    found = story(None, "p.1", [process(messages=[one]), process("q", messages=[other])])
    assert found.verdict.code == "ok"
    assert found.messages[0].message.counts == {"taken": 5, "before": 1}


def test_all_of_it_is_known_since_the_last_of_them_began() -> None:
    found = story("ann", None, [process(), Report(Node("q", "host", 2), 150.0, 160.0, "Redis is away")])
    assert (found.messages_since, found.streams_since) == (150.0, 200.0)
    assert found.problems == {"q": "Redis is away"}
