"""One partition of the log → its lane, from the Redis that has it. asyncio only."""

from __future__ import annotations

import asyncio
import itertools

from redis.exceptions import MovedError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.cluster_map import Address, ClusterMap, redirected
from trio_sse.broker.feed import PING_SECONDS, PONG_SECONDS
from trio_sse.broker.link import ERRORS, open_link
from trio_sse.broker.log_reader import LogReader
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.lane import Lane
from trio_sse.delivery.lanes import Lanes
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.settings import Settings


class LaneReader:
    """Reads a partition, and on any of ERRORS begins again where it stopped."""

    def __init__(
        self,
        settings: Settings,
        lane: Lane,
        lanes: Lanes,
        cluster: ClusterMap | None,
        limit: LogLimit | None = None,
    ) -> None:
        """`limit` is what all readers together may say of lost links: a lost Redis has lost many."""
        self._settings = settings
        self._lane = lane
        self._cluster = cluster
        self._seeds = itertools.cycle([(one.host, one.port) for one in settings.cluster_servers] or [None])
        self._at: Address | None = None
        """The node that has the partition, as far as is known."""
        self._reader = LogReader(
            settings,
            lane.key,
            lane.hub,
            lane.resumer,
            Intake(lane.hub, settings.max_message_bytes, lane.decode),
            block_seconds=PING_SECONDS,
            silence_seconds=PING_SECONDS + PONG_SECONDS,
            decode=lane.decode,
            open_log=self._open,
        )
        self.attempts = Attempts(settings, settings.redis_address, purpose=lane.key, limit=limit)
        self.attempts.tried = lambda: lanes.was_tried(lane)
        if lane.hub.recorder is not None:
            self.attempts.noted = lane.hub.recorder.trouble

    async def run(self) -> None:
        """Until cancelled."""
        await self.attempts.run(self._serve)

    async def _serve(self) -> None:
        """Raises one of ERRORS, or a group of them."""
        self._at = self._at or self._home or next(self._seeds)
        try:
            try:
                await self._serve_there()
            except MovedError as elsewhere:  # nothing is lost: another node of the cluster has it
                self._at = redirected(elsewhere, self._at)
                await self._serve_there()
        except ERRORS as error:
            self._at = redirected(error, self._at) if isinstance(error, MovedError) else None
            raise

    async def _serve_there(self) -> None:
        async with self._reader:
            self.attempts.success()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reader.answer_pending())
                await self._reader.follow()

    @property
    def _home(self) -> Address | None:
        return None if self._cluster is None else self._cluster.address_of(self._lane.key.encode())

    def _open(self) -> open_link:
        return open_link(self._settings, database=True, at=self._at)
