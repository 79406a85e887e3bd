"""What is counted."""

from __future__ import annotations

from trio_sse.counters import Counters


def test_a_snapshot_has_every_counter_and_does_not_change_any_more() -> None:
    counters = Counters()
    snapshot = counters.snapshot()
    assert set(snapshot) == set(Counters.__slots__) - {"received"} | {"published"}
    assert set(snapshot.values()) == {0}
    counters.dropped += 2
    assert snapshot["dropped"] == 0
    assert counters.snapshot()["dropped"] == 2
