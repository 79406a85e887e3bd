"""From a real Redis, or a cluster, to the hub, as the service does it, without a server in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from tests.support.inside import Client, new_hub, new_resumer, settings, unbegun
from trio_sse.broker.cluster_subscriber import ClusterSubscriber
from trio_sse.broker.key_subscriber import KeySubscriber
from trio_sse.broker.source import Source
from trio_sse.broker.subscriber import Subscriber
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.interest import Interest
from trio_sse.delivery.resume import Resumer, Start


def new_subscriber(
    hub: Hub, port: int, *, ping_seconds: float = 5, pong_seconds: float = 10, **values: Any
) -> Subscriber:
    at = settings(redis_host="127.0.0.1", redis_port=port, **values)
    resumer = new_resumer(hub.history)
    return Subscriber(at, hub, resumer, ping_seconds=ping_seconds, pong_seconds=pong_seconds)


@asynccontextmanager
async def running(hub: Hub, port: int, **values: Any) -> AsyncIterator[Subscriber]:
    """A subscriber to the one channel, and a flusher."""
    subscriber = new_subscriber(hub, port, **values)
    async with trio.open_nursery() as nursery:
        await nursery.start(flush_forever, hub)
        await nursery.start(subscriber.run)
        yield subscriber
        nursery.cancel_scope.cancel()


class ByKey:
    """A hub, and the subscriber by key that the settings ask for."""

    def __init__(self, **values: Any) -> None:
        at = settings(redis_routing="by-key", **values)
        self.hub = new_hub(clock=trio.current_time)
        source = Source(at, self.hub)
        assert source.interest is not None
        self.interest: Interest = source.interest
        self.cluster = source.cluster
        self.hub.target_listeners.append(self.interest)
        self.resumer = Resumer(self.hub.history, heartbeat_seconds=30.0, interest=self.interest)
        subscriber = source.subscriber(self.resumer)
        assert isinstance(subscriber, KeySubscriber | ClusterSubscriber)
        self.subscriber = subscriber
        self._connections: dict[Client, Connection] = {}

    def join(
        self, user: str | None = None, topics: Iterable[str] = (), last_event_id: str | None = None
    ) -> Client:
        """A client that gets all that it may get."""
        connection = unbegun(self.hub, user, topics=topics, recovery=self.resumer)
        client = Client(connection)
        self._connections[client] = connection
        self.resumer.begin(connection, Start(last_event_id))
        return client

    def leave(self, client: Client) -> None:
        self.hub.leave(self._connections.pop(client))

    @property
    def reconnects(self) -> int:
        return self.hub.counters.redis_reconnects


@asynccontextmanager
async def by_key(**values: Any) -> AsyncIterator[ByKey]:
    """It runs as long as the block lasts."""
    service = ByKey(**values)
    async with trio.open_nursery() as nursery:
        await nursery.start(flush_forever, service.hub)
        await nursery.start(service.subscriber.run)
        yield service
        nursery.cancel_scope.cancel()


async def until_stepping(clock: MockClock, condition: Any) -> None:
    """Wait for a real Redis while the clock of this test goes on by almost nothing."""
    for _ in range(10_000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
        clock.jump(0.00001)
        await trio.to_thread.run_sync(lambda: None)
    raise AssertionError("it never came")
