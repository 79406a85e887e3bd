"""What a stream that catches up was promised. `conftest.py` looks at the balance of each test."""

from __future__ import annotations

import pytest

from tests.support.inside import Client, flush_now, joined, new_hub, note, unbegun
from trio_sse.counters import Balance
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.replay import Rest


class Recovery:
    """Nobody has the next messages yet."""

    def fell_behind(self, connection: Connection, at: EntryId | None) -> None:
        pass

    def fetch(self, connection: Connection, rest: Rest) -> None:
        pass

    def forget(self, connection: Connection) -> None:
        pass


def publish(hub: Hub, *users: str, times: int = 1) -> None:
    for _ in range(times):
        hub.dispatch(note(*users))


def balance_of(hub: Hub) -> Balance:
    return hub.counters.balance


def test_what_memory_has_after_its_place_is_promised_when_a_stream_begins() -> None:
    hub = new_hub()
    publish(hub, "1", times=3)
    publish(hub, "2")
    publish(hub)
    connection = joined(hub, after=1)
    assert (balance_of(hub).published, balance_of(hub).owed) == (3, 3)
    connection.take_waiting()
    assert (balance_of(hub).replayed, balance_of(hub).owed) == (3, 0)


def test_one_that_begins_now_was_promised_nothing() -> None:
    hub = new_hub()
    publish(hub, "1", times=3)
    joined(hub)
    assert balance_of(hub) == Balance()


@pytest.mark.parametrize("flushed", [False, True])
def test_what_comes_while_it_catches_up_is_promised_once(flushed: bool) -> None:
    hub = new_hub()
    publish(hub, "1")
    connection = joined(hub, after=0)
    publish(hub, "1", times=2)
    if flushed:
        flush_now(hub)
        assert balance_of(hub).owed == 3
    client = Client(connection)
    flush_now(hub)
    publish(hub, "1")
    flush_now(hub)
    assert len(client.data) == 4
    found = balance_of(hub)
    assert (found.published, found.replayed, found.direct, found.owed) == (4, 3, 1, 0)


def test_what_comes_before_it_has_a_place_is_not_for_it() -> None:
    hub = new_hub()
    connection = unbegun(hub)
    publish(hub, "1")
    flush_now(hub)
    assert balance_of(hub).published == 0
    connection.begin(b"", hub.history.latest)
    connection.take_waiting()
    assert balance_of(hub) == Balance()


def test_a_stream_that_ends_was_not_given_what_it_was_promised() -> None:
    hub = new_hub()
    publish(hub, "1", times=3)
    hub.leave(joined(hub, after=0))
    assert (balance_of(hub).stream_ended, balance_of(hub).owed) == (3, 0)


def test_what_memory_let_go_is_declared_with_the_gap() -> None:
    hub = new_hub(messages=2)
    connection = joined(hub)
    publish(hub, "1", times=5)
    flush_now(hub)
    assert balance_of(hub).owed == 5
    data = connection.take_waiting()
    assert b"history_expired" in data
    found = balance_of(hub)
    assert (found.history_expired, found.replayed, found.owed) == (3, 2, 0)
    assert hub.counters.gaps == {"history_expired": 1}


def test_what_memory_let_go_may_come_from_the_log_and_counts_once() -> None:
    hub = new_hub(messages=2)
    connection = unbegun(hub, recovery=Recovery())  # type: ignore[arg-type]
    connection.begin(b"", 0)
    publish(hub, "1", times=5)
    flush_now(hub)
    connection.take_waiting()
    assert (connection.begun, balance_of(hub).owed) == (False, 5)
    connection.begin(b"", 3, [b"1", b"2"], rest=Rest((2, 0), (3, 0), 3, (0, 0), 1))
    assert connection.take_waiting() == b"12"
    assert balance_of(hub).owed == 3
    connection.begin(b"", 3, [b"3"])
    connection.take_waiting()
    found = balance_of(hub)
    assert (found.published, found.replayed, found.owed, found.undeclared) == (5, 5, 0, 0)


def test_what_only_the_log_had_counts_when_it_is_handed_over() -> None:
    hub = new_hub()
    connection = unbegun(hub)
    connection.begin(b"hello", 0, [b"one", b"two"], behind=b"said")
    assert balance_of(hub).published == 0
    assert connection.take_waiting() == b"helloonetwosaid"
    assert (balance_of(hub).published, balance_of(hub).replayed) == (2, 2)


def test_what_has_expired_in_history_is_declared() -> None:
    now = 0.0
    hub = new_hub(clock=lambda: now)
    hub.history.append(("1",), str.encode, expires=5)
    hub.history.append(("1",), str.encode)
    connection = joined(hub, after=0)
    now = 6
    connection.take_waiting()
    found = balance_of(hub)
    assert (found.published, found.replayed, found.expired) == (2, 1, 1)


def test_a_gap_in_history_is_no_message_and_is_told_again() -> None:
    hub = new_hub()
    publish(hub, "1")
    hub.announce_gap("redis_reconnected")
    connection = joined(hub, after=0)
    assert b"redis_reconnected" in connection.take_waiting()
    assert (balance_of(hub).published, hub.counters.gaps) == (1, {"redis_reconnected": 1})


def test_what_the_log_did_not_have_after_all_is_undeclared() -> None:
    hub = new_hub(messages=1)
    recovery = Recovery()
    connection = unbegun(hub, recovery=recovery)  # type: ignore[arg-type]
    connection.begin(b"", 0)
    publish(hub, "1", times=3)
    flush_now(hub)
    connection.take_waiting()
    connection.begin(b"", 2, [b"1"])
    connection.take_waiting()
    assert balance_of(hub).undeclared == 1
    balance_of(hub).published -= 1  # for `conftest.py`
