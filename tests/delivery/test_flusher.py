"""From the hub to the connections, without holding up anybody else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from tests.support.inside import Client, joined, new_hub, note
from trio_sse.delivery import flusher
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.flusher import OFFERS_AT_ONCE, flush, flush_forever, settle
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import Notification


async def test_a_flush_delivers_and_lets_others_run() -> None:
    hub = new_hub()
    client = Client(joined(hub))
    hub.dispatch(note("1", data=b"hello"))
    with assert_checkpoints():
        await flush(hub)
    assert client.data == ["hello"]


async def test_a_flush_with_nothing_to_do_lets_others_run() -> None:
    with assert_checkpoints():
        await flush(new_hub())


async def test_messages_are_delivered_as_soon_as_they_are_published(nursery: trio.Nursery) -> None:
    hub = new_hub()
    client = Client(joined(hub))
    await nursery.start(flush_forever, hub)
    for data in (b"1", b"2"):
        hub.dispatch(note("1", data=data))
        await wait_all_tasks_blocked()
        assert client.data[-1:] == [data.decode()]


async def test_messages_published_together_leave_in_one_write(nursery: trio.Nursery) -> None:
    hub = new_hub()
    connection = joined(hub)
    writes: list[bytes] = []

    class Counting(Client):
        def take(self, batch: Batch) -> bool:
            writes.append(batch.data)
            return True

    Counting(connection)
    await nursery.start(flush_forever, hub)
    for number in range(5):
        hub.dispatch(note("1", data=b"%d" % number))
    await wait_all_tasks_blocked()
    assert len(writes) == 1


async def test_a_long_flush_gives_others_turns(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(flusher, "BUDGET_SECONDS", 0)
    hub = new_hub()
    clients = [Client(joined(hub)) for _ in range(200)]
    served_at_turn: list[int] = []

    @nursery.start_soon
    async def other() -> None:
        while True:
            served_at_turn.append(sum(bool(client.received) for client in clients))
            await trio.lowlevel.checkpoint()

    await trio.lowlevel.checkpoint()
    hub.dispatch(note())
    await flush(hub)
    assert [client.data for client in clients] == [["{}"]] * 200
    assert len([served for served in served_at_turn if 0 < served < 200]) >= 3
    nursery.cancel_scope.cancel()


async def test_whoever_leaves_or_joins_during_a_flush_disturbs_nobody(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(flusher, "BUDGET_SECONDS", 0)
    hub = new_hub()
    connections = [joined(hub) for _ in range(100)]
    clients = [Client(connection) for connection in connections]
    late: list[Client] = []

    @nursery.start_soon
    async def meanwhile() -> None:
        while clients[0].data == []:
            await trio.lowlevel.checkpoint()
        hub.leave(connections[-1])
        late.append(Client(joined(hub)))
        hub.dispatch(note("1", data=b"next"))

    hub.dispatch(note("1", data=b"first"))
    await flush(hub)
    assert {tuple(client.data) for client in clients[:-1]} == {("first",)}
    assert clients[-1].data == []
    assert late[0].data == []
    await flush(hub)
    assert {tuple(client.data) for client in clients[:-1]} == {("first", "next")}
    assert late[0].data == ["next"]


def read(hub: Hub, *notes: Notification) -> None:
    """What one read of Redis brought."""
    hub.begin_read()
    for each in notes:
        hub.dispatch(each)
    hub.end_read()
    settle(hub)


async def test_what_is_little_leaves_at_once_and_wakes_nobody() -> None:
    hub = new_hub()
    clients = [Client(joined(hub, user)) for user in ("ann", "ann", "bob")]
    with assert_no_checkpoints():
        read(hub, note("ann", data=b"1"), note("ann", data=b"2"), note("bob", data=b"3"))
        read(hub, note(data=b"4"))
        read(hub, note("nobody"))
        read(hub)
    assert [client.data for client in clients] == [["1", "2", "4"], ["1", "2", "4"], ["3", "4"]]
    assert not hub.pending.is_set()
    assert hub.pending_bytes == 0


@pytest.mark.parametrize("users", [("1",), ()])
async def test_what_is_much_is_left_to_the_flusher(users: tuple[str, ...], nursery: trio.Nursery) -> None:
    hub = new_hub()
    clients = [Client(joined(hub)) for _ in range(OFFERS_AT_ONCE + 1)]
    read(hub, note(*users))
    assert not any(client.data for client in clients)
    await nursery.start(flush_forever, hub)
    await wait_all_tasks_blocked()
    assert all(client.data == ["{}"] for client in clients)
    nursery.cancel_scope.cancel()


async def test_messages_for_many_users_are_left_to_the_flusher() -> None:
    hub = new_hub()
    clients = [Client(joined(hub, str(number))) for number in range(OFFERS_AT_ONCE + 1)]
    read(hub, *(note(str(number)) for number in range(OFFERS_AT_ONCE + 1)))
    assert not any(client.data for client in clients)
    assert hub.pending.is_set()


async def test_what_is_read_while_the_flusher_is_at_older_messages_leaves_after_them(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(flusher, "BUDGET_SECONDS", 0)
    hub = new_hub()
    clients = [Client(joined(hub)) for _ in range(2 * OFFERS_AT_ONCE)]
    last = Client(joined(hub, "last"))
    await nursery.start(flush_forever, hub)
    read(hub, *(note("1", data=b"old") for _ in range(3)), note("last", data=b"old"))
    while not clients[0].data:
        await trio.lowlevel.checkpoint()
    assert last.data == []
    read(hub, note("last", data=b"new"))  # little
    assert last.data == []
    await wait_all_tasks_blocked()
    assert last.data == ["old", "new"]
    assert not hub.pending.is_set()
    read(hub, note("last", data=b"newest"))
    assert last.data == ["old", "new", "newest"]
    nursery.cancel_scope.cancel()


async def test_what_is_read_before_the_flusher_has_its_turn_is_left_to_it() -> None:
    hub = new_hub()
    client = Client(joined(hub))
    hub.dispatch(note("1", data=b"old"))
    read(hub, note("1", data=b"new"))
    assert client.data == []
    await flush(hub)
    assert client.data == ["old", "new"]
