"""Heartbeats: each connection has its own time."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import Client, joined, new_hub
from trio_sse.delivery.heartbeats import beat_forever


async def test_every_connection_has_its_heartbeat_30_seconds_from_its_own_connecting(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = new_hub(clock=trio.current_time)
    await nursery.start(beat_forever, hub)
    clients: list[Client] = []
    for pause in (7, 5, 11):
        await trio.sleep(pause)
        clients.append(Client(joined(hub)))  # at 7, 12 and 23 s
    await trio.sleep_until(trio.current_time())
    seen: list[tuple[float, int]] = []
    began = trio.current_time() - 23
    while trio.current_time() < began + 84:
        before = [len(client.names) for client in clients]
        await trio.sleep(0.5)
        await wait_all_tasks_blocked()
        seen += [
            (trio.current_time() - began, index)
            for index, client in enumerate(clients)
            if len(client.names) > before[index]
        ]
    assert seen == [(37, 0), (42, 1), (53, 2), (67, 0), (72, 1), (83, 2)]


async def test_other_messages_do_not_put_off_a_heartbeat(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = new_hub(clock=trio.current_time)
    await nursery.start(beat_forever, hub)
    client = Client(joined(hub))
    for _ in range(31):
        hub.announce_gap("redis_reconnected")
        await trio.sleep(1)
    assert client.names.count("heartbeat") == 1


async def test_a_busy_connection_gets_its_heartbeat_later_and_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = new_hub(clock=trio.current_time)
    await nursery.start(beat_forever, hub)
    client = Client(joined(hub))
    client.busy = True
    await trio.sleep(100)
    assert client.names == []
    client.catch_up()
    assert client.names == ["heartbeat"]
    await trio.sleep(19)
    assert client.names == ["heartbeat"]
    await trio.sleep(2)
    assert client.names == ["heartbeat"] * 2
