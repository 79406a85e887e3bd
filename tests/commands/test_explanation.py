"""An explanation in words."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from trio_sse.admin.verdicts import Verdict
from trio_sse.commands.explanation import ENDS, OUTCOMES, VERDICTS, lines
from trio_sse.delivery.outcomes import Outcome

NODE = {"process": "p", "host": "web-1", "pid": 7}


def answer(**story: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "verdict": {"code": "ok"},
        "messages": [],
        "streams": [],
        "more_streams": 0,
        "refusals": [],
        "bad": [],
        "away": [],
        "messages_since": 1000.0,
        "streams_since": 1000.0,
        "problems": {},
    }
    id = story.pop("id", None)  # noqa: A001
    asked = {"nodes": [NODE], "missing": [], "problem": None, **story.pop("asked", {})}
    apart = story.pop("apart", False)
    return {"user_id": "ann", "id": id, "apart": apart, "asked": asked, "story": {**empty, **story}}


def said(**story: Any) -> list[str]:
    return list(lines(answer(**story)))


def stream(**more: Any) -> dict[str, Any]:
    fields = {"id": "s-1", "user": "ann", "topics": [], "address": "192.0.2.1", "opened": 900.0}
    return {**fields, "state": "live", "process": "p", "slowest": 0.0, **more}


def codes(documented: type, width: int) -> set[str]:
    """The codes that a docstring lists, in a column of this width."""
    # cleandoc: from Python 3.13 on a docstring has no indentation, before it has.
    rows = re.findall(r"^([a-z_]+ +)\S", inspect.cleandoc(documented.__doc__ or ""), re.MULTILINE)
    return {row.strip() for row in rows if len(row) == width}


def test_there_are_words_for_each_outcome_and_each_verdict() -> None:
    assert codes(Outcome, 16) == OUTCOMES.keys()
    assert codes(Verdict, 18) == VERDICTS.keys() - OUTCOMES.keys() | {"ok"}


def test_the_first_line_is_the_answer() -> None:
    assert said(streams=[stream(), stream()])[0] == "user ann: 2 streams are open"
    assert said(streams=[stream()])[0] == "user ann: 1 stream is open"
    first = said(id="p.1", verdict={"code": "dropped"})[0]
    assert first.startswith("message p.1, user ann: dropped: SSE_BUFFER")
    ended = {"code": "not_connected", "detail": "write_timeout", "at": 0.0}
    assert "SSE_WRITE_TIMEOUT_SECONDS" in said(verdict=ended)[0]


def test_what_the_answer_does_not_cover_comes_next() -> None:
    asked = {"missing": [{"process": "q", "host": "web-2", "pid": 8}], "problem": "Redis at x: gone"}
    told = said(asked=asked, problems={"p": "Redis at x: gone"})
    assert told[1:4] == [
        "! no answer from web-2, process 8 (q)",
        "! only one process was asked: Redis at x: gone",
        "! process p gets no messages now: Redis at x: gone",
    ]


def test_apart_a_message_may_have_reached_nobody() -> None:
    assert any(line.startswith("A message reaches") for line in said(apart=True))
    assert not any(line.startswith("A message reaches") for line in said())


def test_a_message_and_what_became_of_it_for_each_stream() -> None:
    outcomes = [
        {"stream": "s-0", "code": "before"},
        {"stream": "s-1", "code": "waiting", "seconds": 3.25},
        {"stream": "s-2", "code": "taken", "at": 1000.0},
    ]
    message = {
        "users": ["ann"],
        "topics": ["news"],
        "more": 3,
        "at": 1000.0,
        "key": "k",
        "outcomes": outcomes,
    }
    told = said(messages=[{"message": message, "ids": ["p.1", "q.1"], "verdict": {"code": "taken"}}])
    [line] = [line for line in told if line.startswith("message ")]
    assert "p.1 = q.1, for user ann, topic news and 3 more, key k: written to the client at once" in line
    rows = [line for line in told if line.startswith("  stream")]
    assert len(rows) == 2
    assert rows[0] == "  stream s-1: waits, for 3.2 s by now: the client does not take what was written to it"


def test_a_stream_and_what_it_lost() -> None:
    lost = {"waiting": 2, "waiting_since": 950.0, "behind": 70000, "dropped": 3, "slowest": 2.5}
    told = said(streams=[stream(resumed="p.1", gap="x", **lost)])
    [line] = [line for line in told if line.startswith("stream ")]
    assert "came back with p.1" in line
    assert "began with a gap (x)" in line
    assert any("3 dropped, 2 waiting since" in line and "70000 bytes" in line for line in told)
    assert any("took a message 2.5 s late" in line for line in told)


@pytest.mark.parametrize("why", ENDS)
def test_a_stream_that_ended_says_why(why: str) -> None:
    told = said(streams=[stream(state="ended", ended=990.0, why=why)])
    assert any(line.startswith("  ended") and line.endswith(ENDS[why]) for line in told)


def test_refusals_bad_messages_and_times_without_redis() -> None:
    told = said(
        refusals=[{"at": 1.0, "status": 401, "detail": "old", "address": "192.0.2.9", "claimed": True}],
        bad=[{"at": 1.0, "reason": "not JSON", "size": 5}],
        away=[{"began": 1.0, "why": "gone"}, {"began": 1.0, "ended": 2.0, "why": "gone"}],
    )
    assert any("proves nothing): 401 old" in line for line in told)
    assert any(line.startswith("bad message") and line.endswith("not JSON") for line in told)
    assert sum("and still is" in line for line in told) == 1
