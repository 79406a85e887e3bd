"""One partition of the log → its lane, from the Redis that has it. asyncio only."""

from __future__ import annotations

import asyncio

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.feed import PING_SECONDS, PONG_SECONDS
from trio_sse.broker.home import Home
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
        key = lane.key.encode()
        self._home = Home(settings, lambda: None if cluster is None else cluster.address_of(key))
        self._reader = LogReader(
            settings,
            lane.key,
            lane.hub,
            lane.resumer,
            Intake(lane.hub, settings.max_message_bytes, lane.decode),
            block_seconds=PING_SECONDS,
            silence_seconds=PING_SECONDS + PONG_SECONDS,
            open_log=self._home.open,
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
        await self._home.serve(self._serve_there)

    async def _serve_there(self) -> None:
        async with self._reader:
            self.attempts.success()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reader.answer_pending())
                await self._reader.follow()
