"""What processes tell each other, as it goes over the wire."""

from __future__ import annotations

import msgspec

from trio_sse.admin.reports import (
    Ending,
    MessageReport,
    OutcomeReport,
    Question,
    Report,
    StreamReport,
)
from trio_sse.broker.control import Node


def test_a_report_comes_as_it_was_sent() -> None:
    report = Report(
        Node("p", "host", 7),
        1.5,
        2.5,
        streams=[StreamReport("s", "ann", ["news"], "192.0.2.1", 1.0, "live", waiting=3)],
        messages=[MessageReport("p.1", 1.0, ["ann"], [], outcomes=[OutcomeReport("s", "taken", 1.0)])],
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_what_is_not_so_is_left_out() -> None:
    assert msgspec.to_builtins(Ending(user="ann")) == {"user": "ann"}
    assert msgspec.to_builtins(Question("ann")) == {"user": "ann"}
    assert "more_streams" not in msgspec.to_builtins(Report(Node("p", "host", 7), 1.0, 2.0))


def test_one_of_a_newer_version_is_understood_as_far_as_it_goes() -> None:
    assert msgspec.json.decode(b'{"user":"ann","new":1}', type=Question) == Question("ann")
