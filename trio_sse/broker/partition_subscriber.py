"""Redis → hubs, from a log in partitions: those are read whose messages somebody here follows."""

from __future__ import annotations

import asyncio

import structlog
import trio
import trio_asyncio

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.feed import PING_SECONDS, PONG_SECONDS
from trio_sse.broker.key_subscriber import expire_forever
from trio_sse.broker.lane_reader import LaneReader
from trio_sse.broker.link import answer_within, call, open_link
from trio_sse.broker.topology import look
from trio_sse.counters import Counters
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.lane import Lane
from trio_sse.delivery.lanes import Lanes
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.delivery.partitions import Partition
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.partition_subscriber")

REPORT_SECONDS = 10.0
"""Between two lines about partitions that cannot be read."""


class PartitionSubscriber:
    """Runs a reader for each partition in `lanes`, and watches whether Redis is there while there is none."""

    def __init__(
        self, settings: Settings, lanes: Lanes, counters: Counters, cluster: ClusterMap | None
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._counters = counters
        self._cluster = cluster
        self._readers: dict[Partition, LaneReader] = {}
        self._limit = LogLimit(REPORT_SECONDS)
        self._attempts = Attempts(settings, settings.redis_address)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that redis-py runs in, while the subscriber runs."""

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None. One partition that cannot be read is none: others can. For
        the log: it has addresses."""
        lost = self._lost()
        return None if lost is None else lost.problem

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        lost = self._lost()
        return "redis_silent" if lost is None else lost.code

    def _lost(self) -> Attempts | None:
        if not self._attempts.succeeded:
            return self._attempts
        found = [reader.attempts for reader in self._readers.values() if not reader.attempts.first]
        return found[0] if found and not any(one.succeeded for one in found) else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read what is followed, until cancelled. `started()` is called when Redis was tried once, whatever
        the outcome."""
        async with trio_asyncio.open_loop() as self.loop, trio.open_nursery() as nursery:
            nursery.start_soon(expire_forever, self._lanes.expire)
            self._attempts.tried = task_status.started
            nursery.start_soon(trio_asyncio.aio_as_trio(self._attempts.run), self._watch)
            while True:
                for lane in self._lanes.take_new():
                    nursery.start_soon(self._read, lane)
                await self._lanes.changed.wait()

    async def _read(self, lane: Lane) -> None:
        reader = LaneReader(self._settings, lane, self._lanes, self._cluster, self._limit)
        self._readers[lane.partition] = reader
        try:
            async with trio.open_nursery() as nursery:
                self._lanes.stops_by(lane, nursery.cancel_scope.cancel)
                nursery.start_soon(flush_forever, lane.hub)
                await trio_asyncio.aio_as_trio(reader.run)()
        finally:
            if self._readers.get(lane.partition) is reader:  # else it is read anew
                del self._readers[lane.partition]

    async def _watch(self) -> None:
        """Ask again and again. Raises one of link.ERRORS."""
        if self._cluster is None:
            async with open_link(self._settings) as link:
                while True:
                    async with answer_within(PONG_SECONDS):
                        await call(link, "PING")
                    self._note_success()
                    await asyncio.sleep(PING_SECONDS)
        while True:
            view = await look(self._settings, self._cluster.masters)
            self._cluster.learn(view.ranges, in_doubt=not view.works)
            self._note_success()
            await asyncio.sleep(PING_SECONDS)

    def _note_success(self) -> None:
        if self._attempts.succeeded:
            return
        if not self._attempts.first:
            self._counters.redis_reconnects += 1
        self._attempts.success()
        settings = self._settings
        log.info(
            "reading a Redis stream in partitions",
            redis=settings.redis_address,
            stream=settings.redis_stream,
            partitions=settings.stream_partitions,
        )
