"""Who is here, over all nodes: kept in Redis, told to a topic, and read from there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog
import trio
import trio_asyncio

from trio_sse.broker.announcer import Announcer, check
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.errors import of_redis
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.link import ERRORS
from trio_sse.broker.presence_keeper import Keeper, Pace
from trio_sse.broker.presence_records import Here, Records
from trio_sse.broker.publisher import Publisher, UnavailableError
from trio_sse.delivery.attendance import PARTITIONS, Attendance, partition_of
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.targets import Target
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.presence")

FAREWELL_SECONDS = 1.0
_AT_ONCE = 16


class Presence:
    """Keeps the presence of this node's users and topics in Redis, beside all else: where Redis is away
    nothing waits for it. Raises SettingsError if SSE_PRESENCE_TOPIC is no topic."""

    def __init__(
        self, settings: Settings, hub: Hub, cluster: ClusterMap | None, publisher: Publisher
    ) -> None:
        check(settings)
        self._settings = settings
        grace = settings.presence_grace_seconds
        attendance = Attendance(hub.count, hub.history.now, grace)
        hub.stream_listeners.append(attendance)
        self._rolls = attendance.rolls
        topic = settings.presence_topic
        self._announcer = (
            None if topic is None else Announcer(publisher, topic, hub.counters, settings.max_message_bytes)
        )
        self._links, self._reading = KeyLinks(settings, cluster), KeyLinks(settings, cluster)
        pace = Pace(settings.heartbeat_seconds, grace)
        self._keepers = [
            Keeper(records, roll, pace, hub.counters, self._tell, self._fails)
            for records, roll in zip(_partitions(self._links, settings, pace), attendance.rolls, strict=True)
        ]
        self._read = _partitions(self._reading, settings, pace)
        self._away: set[Keeper] = set()
        self._turns = trio.CapacityLimiter(_AT_ONCE)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Then Redis is told that this node stops, if that takes no longer than
        FAREWELL_SECONDS."""
        async with trio_asyncio.open_loop() as self._loop, trio.open_nursery() as nursery:
            if self._announcer is not None:
                nursery.start_soon(self._announcer.run)
            task_status.started()
            try:
                await trio_asyncio.aio_as_trio(self._keep)()
            finally:
                with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await trio_asyncio.aio_as_trio(self._farewell)()
                self._loop = None

    async def ask(self, targets: Sequence[Target], most_ids: int) -> dict[Target, Here]:
        """What is known of users and topics, with so many user ids of each topic at the most. Raises
        UnavailableError."""
        if self._loop is None:
            raise UnavailableError("not connected to Redis yet", unsure=False)
        try:
            async with self._turns:
                ask = trio_asyncio.aio_as_trio(self._ask, loop=self._loop)
                found: dict[Target, Here] = await ask(targets, most_ids)
        except ERRORS as error:
            raise UnavailableError(of_redis(error, self._settings), unsure=False) from None
        return found

    async def _ask(self, targets: Sequence[Target], most_ids: int) -> dict[Target, Here]:
        found: dict[Target, Here] = {}
        parts: dict[int, list[Target]] = {}
        for target in targets:
            parts.setdefault(partition_of(target), []).append(target)
        for number, own in parts.items():
            found.update(zip(own, await self._read[number].read(own, most_ids), strict=True))
        return found

    async def _keep(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for keeper in self._keepers:
                tasks.create_task(keeper.run())

    async def _farewell(self) -> None:
        try:
            for keeper in self._keepers:
                await keeper.farewell()
        except ERRORS as error:
            log.info("Redis was not told that this node stops", problem=of_redis(error, self._settings))
        finally:
            await self._links.close()
            await self._reading.close()

    def _tell(self, users: Iterable[str], online: bool) -> None:
        if self._announcer is not None:
            self._announcer.tell(users, online)

    def _fails(self, keeper: Keeper, error: BaseException | None) -> None:
        """One line in the log when presence cannot be kept, and one when all of it is again."""
        if error is not None:
            if not self._away:
                # They share links: the others would notice nothing, and what they wrote may be lost too.
                for roll in self._rolls:
                    roll.anew()
                problem = of_redis(error, self._settings)
                log.warning("presence is not kept, trying again", problem=problem)
            self._away.add(keeper)
        elif keeper in self._away:
            self._away.remove(keeper)
            if self._announcer is not None:
                self._announcer.hold()
            if not self._away:
                log.info("presence is kept again")


def _partitions(links: KeyLinks, settings: Settings, pace: Pace) -> list[Records]:
    return [Records(links, settings.redis_channel, number, pace.keeps) for number in range(PARTITIONS)]
