"""One browser: what it is sent, what waits for it, what it lost."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from tests.support import Client, batch, events, flush_now, joined, new_hub, note
from trio_sse.batch import Batch
from trio_sse.connection import Connection, StreamSource, gap, greeting, heartbeat
from trio_sse.hub import Hub
from trio_sse.metrics import Counters


@pytest.fixture
def connection() -> Connection:
    return Connection("1", 3, Counters())


def waiting(connection: Connection) -> list[str]:
    return [event.data for event in events(connection.take_waiting())]


def test_an_idle_client_is_written_to_at_once(connection: Connection) -> None:
    client = Client(connection)
    connection.offer(batch(1, 2))
    assert client.data == ["1", "2"]
    assert connection.take_waiting() == b""


def test_messages_wait_in_order_while_the_client_is_busy(connection: Connection) -> None:
    Client(connection).busy = True
    connection.offer(batch(1, 2))
    connection.offer(batch(3))
    assert waiting(connection) == ["1", "2", "3"]
    assert connection.take_waiting() == b""


def test_messages_wait_while_nobody_has_taken_charge_of_the_connection(connection: Connection) -> None:
    connection.offer(batch(1))
    assert waiting(connection) == ["1"]


def test_a_connection_holds_ten_messages_if_told_so_and_counts_the_rest() -> None:
    counters = Counters()
    connection = Connection("1", 10, counters)
    connection.offer(batch(*range(1, 14)))
    said = events(connection.take_waiting())
    assert [event.data for event in said[:10]] == [str(number) for number in range(1, 11)]
    assert [event.json() for event in said[10:]] == [{"reason": "slow_client", "dropped": 3}]
    assert counters.dropped == 3


def test_a_gap_stands_where_messages_are_missing(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4, 5))
    received = connection.take_waiting()
    connection.offer(batch(6))
    received += connection.take_waiting()
    said = events(received)
    assert [event.event for event in said] == ["message"] * 3 + ["gap", "message"]
    assert said[3].json()["dropped"] == 2
    assert said[4].data == "6"


def test_a_loss_is_declared_once(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4))
    connection.take_waiting()
    assert connection.take_waiting() == b""


def test_nothing_older_than_its_joining_is_taken(connection: Connection) -> None:
    connection.since = 2
    connection.offer(batch(1, 2))
    connection.offer(batch(2, 3))
    assert waiting(connection) == ["3"]


def test_a_busy_client_gets_the_latest_heartbeat_later_and_once(connection: Connection) -> None:
    client = Client(connection)
    client.busy = True
    for text in (b"first", b"second"):
        connection.tell("heartbeat", Batch.unnumbered(b"event: heartbeat\ndata: %b\n\n" % text))
    assert client.received == b""
    client.catch_up()
    assert client.data == ["second"]
    client.catch_up()
    assert client.data == ["second"]


def test_notices_of_different_kinds_all_wait(connection: Connection) -> None:
    connection.tell("heartbeat", Batch.unnumbered(b"data: heartbeat\n\n"))
    connection.tell("redis_reconnected", Batch.unnumbered(b"data: gap\n\n"))
    assert waiting(connection) == ["heartbeat", "gap"]


def test_notices_take_no_place_of_a_message(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3))
    connection.tell("heartbeat", heartbeat())
    assert len(waiting(connection)) == 4


def test_a_notice_stands_before_messages_that_came_after_it(connection: Connection) -> None:
    connection.offer(batch(1))
    connection.tell("redis_reconnected", Batch.unnumbered(b"data: gap\n\n"))
    connection.offer(batch(2))
    assert waiting(connection) == ["1", "gap", "2"]


def test_a_gap_stands_before_notices_that_came_later(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4))
    connection.tell("heartbeat", heartbeat())
    said = events(connection.take_waiting())
    assert [event.event for event in said] == ["message"] * 3 + ["gap", "heartbeat"]


def test_after_closing_what_waits_may_be_taken_and_nothing_new_comes(connection: Connection) -> None:
    client = Client(connection)
    client.busy = True
    connection.offer(batch(1))
    connection.close()
    client.busy = False
    connection.offer(batch(2))
    connection.tell("heartbeat", heartbeat())
    assert client.closed
    assert client.received == b""
    assert waiting(connection) == ["1"]
    assert connection.take_waiting() == b""


def test_closing_twice_is_harmless(connection: Connection) -> None:
    connection.close()
    connection.close()
    assert connection.closed


def test_connections_have_ids_of_their_own() -> None:
    assert len({Connection("1", 1, Counters()).id for _ in range(100)}) == 100


async def test_offering_never_waits(connection: Connection) -> None:
    with assert_no_checkpoints():
        for number in range(1, 10):
            connection.offer(batch(number))
            connection.tell("heartbeat", heartbeat())
        connection.take_waiting()
        connection.close()


def greet(connection: Connection, *, last_event_id: str | None = None, heartbeat: float = 30.0) -> bytes:
    return greeting(
        connection, "7-5", retry_milliseconds=2345, heartbeat_seconds=heartbeat, last_event_id=last_event_id
    )


def test_a_stream_begins_with_connected_its_position_and_the_time_to_reconnect(
    connection: Connection,
) -> None:
    (hello,) = events(greet(connection))
    assert (hello.event, hello.id, hello.retry) == ("connected", "7-5", 2345)
    said = hello.json()
    assert said.pop("server_time").endswith("Z")
    assert said == {"user_id": "1", "connection_id": connection.id, "heartbeat_seconds": 30, "replayed": 0}


def test_a_period_that_is_not_whole_is_told_as_it_is(connection: Connection) -> None:
    (hello,) = events(greet(connection, heartbeat=0.5))
    assert hello.json()["heartbeat_seconds"] == 0.5


def test_a_position_that_is_not_known_is_answered_by_a_gap_without_a_number(connection: Connection) -> None:
    _, said = events(greet(connection, last_event_id="5-1"))
    assert said.event == "gap"
    assert said.json() == {"reason": "unknown_id", "dropped": None}


def test_a_gap_and_a_heartbeat_are_named_events_with_data() -> None:
    (lost,) = events(gap("slow_client", 7))
    assert (lost.event, lost.json()) == ("gap", {"reason": "slow_client", "dropped": 7})
    (beat,) = events(heartbeat().data)
    assert beat.event == "heartbeat"
    assert list(json.loads(beat.data)) == ["server_time"]


async def test_a_source_gives_the_greeting_then_what_waits_then_what_comes(connection: Connection) -> None:
    source = StreamSource(connection, b"hello")
    connection.offer(batch(1, 2))
    assert await source.next() == b"hello"
    assert await source.next() == batch(1, 2).data
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            with assert_checkpoints():
                assert await source.next() == batch(3, 4).data

        await wait_all_tasks_blocked()
        connection.offer(batch(3, 4))
        connection.offer(batch(5))
    assert await source.next() == batch(5).data


async def test_a_batch_longer_than_the_buffer_reaches_an_idle_client_whole(connection: Connection) -> None:
    source = StreamSource(connection, b"")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() == batch(*range(1, 20)).data

        await wait_all_tasks_blocked()
        connection.offer(batch(*range(1, 20)))


async def test_a_source_ends_when_the_connection_is_closed_and_all_was_taken(connection: Connection) -> None:
    source = StreamSource(connection, b"hello")
    connection.offer(batch(1, 2, 3, 4))
    connection.close()
    assert await source.next() == b"hello"
    rest = events(await source.next() or b"")
    assert [event.event for event in rest] == ["message"] * 3 + ["gap"]
    assert await source.next() is None
    assert await source.next() is None


async def test_closing_ends_a_source_that_waits(connection: Connection) -> None:
    source = StreamSource(connection, b"")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() is None

        await wait_all_tasks_blocked()
        connection.close()


async def test_cancelling_a_source_that_waits_loses_nothing(connection: Connection) -> None:
    source = StreamSource(connection, b"")
    with trio.CancelScope() as already_cancelled:
        already_cancelled.cancel()
        await source.next()
    connection.offer(batch(1))
    assert await source.next() == batch(1).data
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.next)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        connection.offer(batch(2, 3))  # the task that waits has been cancelled but has not run yet
    connection.offer(batch(4))
    assert await source.next() == batch(2, 3, 4).data


SOURCE_ACTIONS = st.lists(st.sampled_from(["publish", "flush", "pull", "wait", "cancel", "run"]), max_size=40)


@given(SOURCE_ACTIONS, st.integers(1, 3))
async def test_a_source_gives_each_message_once_or_declares_it_lost_whatever_is_cancelled(
    actions: list[str], capacity: int
) -> None:
    hub: Hub = new_hub()
    connection = joined(hub, capacity=capacity)
    source = StreamSource(connection, b"")
    received: list[bytes] = []
    scopes: list[trio.CancelScope] = []

    async def pull(scope: trio.CancelScope) -> None:
        with scope:
            received.append(await source.next() or b"")
        scopes.remove(scope)

    async with trio.open_nursery() as nursery:
        for number, action in enumerate(actions):
            if action == "publish":
                hub.publish(note("1", data=b"%d" % number))
            elif action == "flush":
                flush_now(hub)
            elif action == "run":
                await wait_all_tasks_blocked()
            elif action == "cancel":
                for scope in scopes:
                    scope.cancel()
            elif not scopes:
                scope = trio.CancelScope()
                scopes.append(scope)
                nursery.start_soon(pull, scope)
                if action == "pull":
                    await wait_all_tasks_blocked()
                    scope.cancel()
        flush_now(hub)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    hub.leave(connection)
    while data := await source.next():
        received.append(data)
    missing = iter([str(number) for number, action in enumerate(actions) if action == "publish"])
    for event in events(b"".join(received)):
        if event.event == "gap":
            for _ in range(event.json()["dropped"]):
                next(missing)
        else:
            assert event.data == next(missing)
    assert list(missing) == []
