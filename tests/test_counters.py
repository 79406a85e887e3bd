"""What is counted."""

from __future__ import annotations

from trio_sse.counters import Balance, Counters, add_to

IN_READYZ = (
    "streams published rejected dropped superseded expired disconnected resumed overloaded redis_reconnects "
    "presence_writes presence_online presence_offline replies replies_dropped connection_errors"
)


def test_a_snapshot_has_the_counters_of_readyz_and_does_not_change_any_more() -> None:
    counters = Counters()
    snapshot = counters.snapshot()
    assert list(snapshot) == IN_READYZ.split()
    assert set(snapshot.values()) == {0}
    counters.dropped += 2
    assert snapshot["dropped"] == 0
    assert counters.snapshot()["dropped"] == 2


def test_what_is_neither_delivered_nor_declared_nor_owed_is_undeclared() -> None:
    balance = Balance(published=100, direct=1, buffered=2, replayed=3, owed=40)
    balance.dropped, balance.superseded, balance.expired, balance.history_expired = 5, 6, 7, 8
    balance.stream_ended = 9
    assert (balance.delivered, balance.declared, balance.undeclared) == (6, 35, 19)


def test_a_kind_is_counted_from_its_first_time_on() -> None:
    counts: dict[str, int] = {}
    add_to(counts, "gap")
    add_to(counts, "gap", 4)
    assert counts == {"gap": 5}
