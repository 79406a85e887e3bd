"""However the service's own tasks end, no stream stays open that nothing feeds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.inside import PATIENCE_SECONDS, Client, joined, settings
from trio_sse.broker.subscriber import Subscriber
from trio_sse.delivery.asgi_source import AsgiSource
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub
from trio_sse.service import Service


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the n-th step of any task."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


def new_service(subscriber: type[Subscriber] = Subscriber, **values: Any) -> Service:
    service = Service(settings(**values))
    service.subscriber = subscriber(service.settings, service.hub, service.resumer)
    return service


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
        source = AsgiSource(connection)
        while await source.next() is not None:
            pass
    finally:
        hub.leave(connection)


@dataclass
class Outcome:
    entered: bool = False
    started: bool = False


async def run_until_step(step: int, service: Service) -> Outcome:
    """Run a service with three streams and cancel it at `step`, or once it has started."""
    outcome = Outcome()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        outcome.entered = True
        await service.run(task_status=task_status)

    async with trio.open_nursery() as streams:
        for user in ("ann", "ann", "bob"):
            streams.start_soon(read_to_the_end, service.hub, joined(service.hub, user))
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(run)
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
    port = valkey if redis == "answers" else 1
    outcome = Outcome()
    steps_inside = 0
    for step in count(1):
        service = new_service(redis_host="127.0.0.1", redis_port=port)
        hub = service.hub
        with trio.fail_after(PATIENCE_SECONDS):
            outcome = await run_until_step(step, service)
        steps_inside += outcome.entered
        assert hub.closed is outcome.entered
        assert (len(hub), hub.users) == (0, [])
        if outcome.started:
            break
    assert steps_inside > 20


async def test_a_crash_of_one_task_ends_the_others_and_every_stream_and_is_raised() -> None:
    service = new_service(Crashing)
    hub = service.hub
    connection = joined(hub)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await service.run()
    assert hub.closed
    assert connection.closed


async def test_a_crash_of_the_flusher_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    service = new_service(Idle)
    hub = service.hub
    monkeypatch.setattr(hub, "take", lambda: 1 / 0)
    hub.pending.set()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await service.run()
    assert hub.closed


async def test_streams_end_when_their_time_has_come(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    service = new_service(Idle)
    hub = service.hub
    await nursery.start(service.run)
    connection = joined(hub)
    service.lifetimes.add(connection, trio.current_time() + 10)
    await trio.sleep(9)
    assert not connection.closed
    await trio.sleep(2)
    assert connection.closed
    assert not hub.closed


async def test_it_has_started_when_flusher_heartbeat_and_subscriber_have(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    service = new_service(Idle)
    client = Client(joined(service.hub))
    await nursery.start(service.run)
    await trio.sleep(30.5)
    assert client.names == ["heartbeat"]
    nursery.cancel_scope.cancel()
