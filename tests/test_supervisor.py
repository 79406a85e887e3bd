"""However the service's own tasks end, no stream stays open that nothing feeds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import PATIENCE_SECONDS, Client, joined, new_hub, new_replays, settings
from trio_sse.broker.subscriber import Subscriber
from trio_sse.delivery.connection import Connection, StreamSource
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.lifetimes import Lifetimes
from trio_sse.supervisor import beat_forever, supervise


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


class Idle(Subscriber):
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()


class Crashing(Subscriber):
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        raise ZeroDivisionError


async def read_to_the_end(hub: Hub, connection: Connection) -> None:
    try:
        source = StreamSource(connection)
        while await source.next() is not None:
            pass
    finally:
        hub.leave(connection)


@dataclass
class Outcome:
    entered: bool = False
    started: bool = False


async def supervised_until_step(step: int, hub: Hub, subscriber: Subscriber) -> Outcome:
    """Run a supervisor with three streams and cancel it at `step`, or once it has started."""
    outcome = Outcome()

    async def supervised(*, task_status: trio.TaskStatus[None]) -> None:
        outcome.entered = True
        await supervise(hub, Lifetimes(), subscriber, task_status=task_status)

    async with trio.open_nursery() as streams:
        for user in ("ann", "ann", "bob"):
            streams.start_soon(read_to_the_end, hub, joined(hub, user))
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(supervised)
                    outcome.started = True
                    scope.cancel()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not outcome.entered:
            streams.cancel_scope.cancel()
    # Leaving the nursery of the streams is the proof that each of them came to its end.
    return outcome


@pytest.mark.parametrize("redis", ["answers", "is away"])
async def test_cancelling_at_any_step_closes_the_hub_and_ends_every_stream(valkey: int, redis: str) -> None:
    at = settings(redis_host="127.0.0.1", redis_port=valkey if redis == "answers" else 1)
    outcome = Outcome()
    steps_inside = 0
    for step in count(1):
        hub = new_hub(clock=trio.current_time)
        with trio.fail_after(PATIENCE_SECONDS):
            outcome = await supervised_until_step(step, hub, Subscriber(at, hub, new_replays(hub.history)))
        steps_inside += outcome.entered
        assert hub.closed is outcome.entered
        assert (len(hub), hub.users) == (0, [])
        if outcome.started:
            break
    assert steps_inside > 20


async def test_a_crash_of_one_task_ends_the_others_and_every_stream_and_is_raised() -> None:
    hub = new_hub(clock=trio.current_time)
    connection = joined(hub)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await supervise(hub, Lifetimes(), Crashing(settings(), hub, new_replays(hub.history)))
    assert hub.closed
    assert connection.closed


async def test_a_crash_of_the_flusher_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = new_hub(clock=trio.current_time)
    monkeypatch.setattr(hub, "take", lambda: 1 / 0)
    hub.pending.set()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await supervise(hub, Lifetimes(), Idle(settings(), hub, new_replays(hub.history)))
    assert hub.closed


async def test_streams_end_when_their_time_has_come(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    hub, lifetimes = new_hub(clock=trio.current_time), Lifetimes()
    await nursery.start(supervise, hub, lifetimes, Idle(settings(), hub, new_replays(hub.history)))
    connection = joined(hub)
    lifetimes.add(connection, trio.current_time() + 10)
    await trio.sleep(9)
    assert not connection.closed
    await trio.sleep(2)
    assert connection.closed
    assert not hub.closed


async def test_it_has_started_when_flusher_heartbeat_and_subscriber_have(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hub = new_hub(clock=trio.current_time)
    client = Client(joined(hub))
    await nursery.start(supervise, hub, Lifetimes(), Idle(settings(), hub, new_replays(hub.history)))
    await trio.sleep(30.5)
    assert client.names == ["heartbeat"]
    nursery.cancel_scope.cancel()


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
