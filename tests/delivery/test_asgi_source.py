"""The bytes of a connection for an ASGI server: a task waits for them."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.support.inside import batch, events, flush_now, joined, live, new_hub, note, unbegun
from trio_sse.delivery.asgi_source import AsgiOutlet, AsgiSource
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.hub import Hub

LAST_WORDS = b"event: draining\ndata: {}\n\n"


@pytest.fixture
def connection() -> Connection:
    return live(3)


async def test_the_asgi_outlet_takes_only_while_its_task_waits(connection: Connection) -> None:
    outlet = AsgiOutlet(*connection.open_channel())
    assert not outlet.take(batch(1))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def task() -> None:
            assert await outlet.wait() == batch(2, 3).data

        await wait_all_tasks_blocked()
        assert outlet.take(batch(2, 3))
        assert not outlet.take(batch(4))
    assert not outlet.take(batch(5))


async def test_the_asgi_outlet_takes_nothing_once_its_task_was_cancelled(connection: Connection) -> None:
    outlet = AsgiOutlet(*connection.open_channel())
    with trio.move_on_after(0):
        await outlet.wait()
    assert not outlet.take(batch(1))


async def test_the_asgi_outlet_takes_nothing_after_closing(connection: Connection) -> None:
    outlet = AsgiOutlet(*connection.open_channel())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.wait)
        await wait_all_tasks_blocked()
        outlet.close()
        assert not outlet.take(batch(1))
        nursery.cancel_scope.cancel()


def greeted() -> Connection:
    """A connection that has begun with `hello`, and has taken nothing yet."""
    connection = unbegun(new_hub(), capacity=3)
    connection.begin(b"hello", 0)
    return connection


async def test_a_source_gives_the_greeting_then_what_waits_then_what_comes() -> None:
    connection = greeted()
    source = AsgiSource(connection)
    assert await source.next() == b"hello"
    connection.offer(batch(1, 2))
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
    source = AsgiSource(connection)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() == batch(*range(1, 20)).data

        await wait_all_tasks_blocked()
        connection.offer(batch(*range(1, 20)))


async def test_a_source_ends_when_the_connection_is_closed_and_all_was_taken() -> None:
    connection = greeted()
    source = AsgiSource(connection)
    assert await source.next() == b"hello"
    connection.offer(batch(1, 2, 3, 4))
    connection.close()
    rest = events(await source.next() or b"")
    assert [event.event for event in rest] == ["message"] * 3 + ["gap"]
    assert await source.next() is None
    assert await source.next() is None


async def test_closing_ends_a_source_that_waits(connection: Connection) -> None:
    source = AsgiSource(connection)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() is None

        await wait_all_tasks_blocked()
        connection.close()


async def test_cancelling_a_source_that_waits_loses_nothing(connection: Connection) -> None:
    source = AsgiSource(connection)
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


async def test_a_source_gives_a_replay_page_by_page() -> None:
    hub = new_hub()
    texts = [str(number).zfill(10_000) for number in range(1, 21)]
    for text in texts:
        hub.dispatch(note("1", data=text.encode()))
    source = AsgiSource(joined(hub, after=0))
    pages = [await source.next() or b"" for _ in range(3)]
    assert [event.data for event in events(b"".join(pages))] == texts
    assert max(map(len, pages)) < PAGE_BYTES + 11_000


async def test_beginning_wakes_a_source_that_waits() -> None:
    hub = new_hub()
    connection = unbegun(hub)
    source = AsgiSource(connection)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() == b"hello"

        await wait_all_tasks_blocked()
        connection.begin(b"hello", 0)


async def test_a_source_that_has_not_begun_ends_with_the_last_words() -> None:
    connection = unbegun(new_hub())
    source = AsgiSource(connection)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def reader() -> None:
            assert await source.next() == LAST_WORDS
            assert await source.next() is None

        await wait_all_tasks_blocked()
        connection.end(LAST_WORDS)


SOURCE_ACTIONS = st.lists(st.sampled_from(["publish", "flush", "pull", "wait", "cancel", "run"]), max_size=40)


@given(SOURCE_ACTIONS, st.integers(1, 3))
async def test_a_source_gives_each_message_once_or_declares_it_lost_whatever_is_cancelled(
    actions: list[str], capacity: int
) -> None:
    hub: Hub = new_hub()
    connection = joined(hub, capacity=capacity)
    source = AsgiSource(connection)
    received: list[bytes] = []
    scopes: list[trio.CancelScope] = []

    async def pull(scope: trio.CancelScope) -> None:
        with scope:
            received.append(await source.next() or b"")
        scopes.remove(scope)

    async with trio.open_nursery() as nursery:
        for number, action in enumerate(actions):
            if action == "publish":
                hub.dispatch(note("1", data=b"%d" % number))
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
    while waits := connection.take_waiting():
        received.append(waits)
    connection.close()
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
