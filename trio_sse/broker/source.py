"""Where messages come from, as the settings say: one channel and a log, channels by key, or partitions."""

from __future__ import annotations

import asyncio
from typing import Protocol

import trio

from trio_sse.broker.canary import Canary
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.cluster_subscriber import ClusterSubscriber
from trio_sse.broker.key_subscriber import KeySubscriber
from trio_sse.broker.partition_subscriber import PartitionSubscriber
from trio_sse.broker.shard_link import Parts
from trio_sse.broker.subscriber import Subscriber
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.interest import Interest, Shard
from trio_sse.delivery.lanes import Lanes
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.partitions import Layout, Partitioning
from trio_sse.delivery.receipts import Receipts
from trio_sse.delivery.resume import Resumer
from trio_sse.settings import Settings


class AnySubscriber(Protocol):
    """Keeps the service subscribed."""

    loop: asyncio.AbstractEventLoop | None
    """The loop that redis-py runs in, while the subscriber runs."""

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None. For the log: it has the address of Redis."""
        ...

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Counts as started after the first attempt, whatever its outcome."""
        ...


class Source:
    """What the settings make of Redis. Only SSE_REDIS_ROUTING=by-key has an `interest` and `channels`, only
    SSE_STREAM_PARTITIONS a `partitioning`, only REDIS_CLUSTER a `cluster`, and only SSE_CANARY_SECONDS a
    `canary`."""

    partitioning: Partitioning | None = None
    interest: Interest | None = None
    channels: Channels | None = None
    cluster: ClusterMap | None = None
    canary: Canary | None = None

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings = settings
        self._hub = hub
        self.receipts = hub.receipts
        """Of messages that were published from this process."""
        self._lanes: Lanes | None = None
        if settings.partitioned:
            self.partitioning = Partitioning([Layout(*layout) for layout in settings.stream_layouts])
            if settings.redis_cluster:
                self.cluster = ClusterMap(Channels(settings.redis_channel).of)
        elif settings.by_key:
            self.channels = Channels(settings.redis_channel)
            self._shard = Shard()
            if settings.redis_cluster:
                self.cluster = ClusterMap(self.channels.of)
            shard_of = self.cluster.shard_of if self.cluster else lambda _: self._shard
            self.interest = Interest(hub.history, shard_of, hub.announce_gap_to, hub.snapshot.forget)
        if settings.canary_seconds and not settings.partitioned:
            self.canary = Canary(settings, hub.history, self.cluster, self.interest)

    def heard(self, notification: Notification) -> list[Receipts]:
        """The receipts that will know a message when it comes back to this process: one for each copy that
        does."""
        if self._lanes is not None:
            return self._lanes.heard(notification)
        if self.interest is not None and not self.interest.hears(notification.targets):
            return []
        return [self.receipts]

    def subscriber(self, resumer: Resumer, lanes: Lanes | None = None) -> AnySubscriber:
        """The subscriber, which is to be run. `lanes` are those of `partitioning`."""
        self._lanes = lanes
        settings, hub = self._settings, self._hub
        if lanes is not None:
            return PartitionSubscriber(settings, lanes, hub.counters, self.cluster)
        if self.interest is None or self.channels is None:
            return Subscriber(settings, hub, resumer, canary=self.canary)
        intake = Intake(hub, settings.max_message_bytes)
        parts = Parts(settings, hub, intake, self.interest, self.channels, self.canary)
        if self.cluster is not None:
            return ClusterSubscriber(parts, self.cluster)
        return KeySubscriber(parts, self._shard)
