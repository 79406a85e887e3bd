"""What is remembered of one stream, as its connection tells it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from tests.support.inside import Client, flush_now, joined, new_hub, note
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.stream_record import MOST_EVENTS, Happened, StreamRecord


def recorded(hub: Hub, **more: Any) -> tuple[Connection, StreamRecord]:
    connection = joined(hub, "1", **more)
    record = connection.record = StreamRecord("s-1", connection, connection.follows, "192.0.2.1")
    record.goes_on(0, hub.history.latest, None, 0, None, snapshot=False)
    return connection, record


def sent(hub: Hub, count: int, **more: Any) -> None:
    for _ in range(count):
        hub.dispatch(note("1", **more))
    flush_now(hub)


def events(record: StreamRecord) -> list[tuple[str, int, int, int]]:
    return [one[:4] for one in record.events or ()]


def test_of_what_is_taken_at_once_nothing_is_remembered() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    Client(connection)
    assert record.live == 0
    sent(hub, 100)
    assert record.events is None
    assert record.reached == 100


def test_what_waits_is_known_and_how_long_it_had_to() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    client = Client(connection)
    client.busy = True
    sent(hub, 3)
    assert record.waiting == [1, 2, 3]
    assert record.waiting_since is not None
    client.catch_up()
    assert record.waiting == []
    assert record.waiting_since is None
    assert events(record) == [("waited", 1, 3, 3)]


def test_what_is_dropped_is_one_event_as_long_as_nothing_is_taken() -> None:
    hub = new_hub()
    connection, record = recorded(hub, capacity=1)
    client = Client(connection)
    client.busy = True
    sent(hub, 3)
    sent(hub, 2)
    assert events(record) == [("dropped", 2, 5, 4)]
    client.catch_up()
    client.busy = True
    sent(hub, 2)
    assert events(record) == [("dropped", 2, 5, 4), ("waited", 1, 1, 1), ("dropped", 7, 7, 1)]


def test_state_that_waits_between_what_is_dropped_is_not_among_it() -> None:
    hub = new_hub()
    connection, record = recorded(hub, capacity=1)
    Client(connection).busy = True
    sent(hub, 2)
    sent(hub, 1, key="price")
    sent(hub, 1)
    assert events(record) == [("dropped", 2, 2, 1), ("dropped", 4, 4, 1)]
    assert record.waiting == [1, 3]


def test_a_newer_one_of_the_key_takes_the_place() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    Client(connection).busy = True
    sent(hub, 1, key="price")
    sent(hub, 1, key="price")
    assert events(record) == [("superseded", 1, 1, 1)]
    assert record.waiting == [2]


def test_what_expires_while_it_waits_is_known() -> None:
    now = 0.0
    hub = new_hub(clock=lambda: now)
    connection, record = recorded(hub)
    client = Client(connection)
    client.busy = True
    hub.dispatch(msgspec.structs.replace(note("1"), expires_at=time.time() + 5))
    hub.dispatch(note("1"))
    flush_now(hub)
    assert record.waiting == [1, 2]
    now = 10.0
    client.catch_up()
    assert events(record) == [("expired", 1, 1, 1), ("waited", 2, 2, 1)]


def test_the_oldest_events_are_forgotten_and_that_is_known() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    Client(connection).busy = True
    for _ in range(MOST_EVENTS + 3):
        sent(hub, 1, key="price")
    assert record.events is not None
    assert len(record.events) == MOST_EVENTS
    assert record.forgotten == 2


def test_how_it_ended_is_what_it_was_told_first() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    connection.end(b"retry: 5\nevent: draining\ndata: {}\n\n")
    connection.leave()
    record.leaves()
    assert record.why == "draining"
    assert record.connection is None
    assert record.reached == 0


def test_a_client_that_leaves_has_left() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    hub.leave(connection)
    record.leaves()
    assert record.why == "left"


def test_the_end_of_the_service_is_told_from_a_client_that_leaves() -> None:
    hub = new_hub()
    _, record = recorded(hub)
    hub.close()
    assert record.why == "stopping"


def test_a_full_buffer_that_ends_the_stream_is_why_it_ended() -> None:
    hub = new_hub()
    connection, record = recorded(hub, capacity=1, disconnect=True)
    Client(connection).busy = True
    sent(hub, 2)
    assert record.why == "slow_client"


def test_where_it_fell_behind_what_is_kept_is_remembered() -> None:
    hub = new_hub()
    connection, record = recorded(hub)
    record.goes_on(5, 9, "history_expired", 0, None, snapshot=False)
    record.goes_on(9, 12, None, 0, (7, 0), snapshot=False)  # the log had what was between
    assert events(record) == [("missing", 6, 9, 0)]
    assert isinstance(record.events and record.events[0], Happened)
    assert connection.record is record
