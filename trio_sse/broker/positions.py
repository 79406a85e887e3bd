"""The place that stands for now, in the partitions of the log: Redis is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import trio
import trio_asyncio
from redis.exceptions import AskError, ResponseError

from trio_sse.broker.cluster_map import Address, ClusterMap
from trio_sse.broker.errors import of_redis
from trio_sse.broker.key_links import Command, KeyLinks
from trio_sse.broker.link import ERRORS, answer_within
from trio_sse.broker.log import info_of
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.partitions import Partition, Partitioning, part_text, place_text
from trio_sse.delivery.targets import Target
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0


class Positions:
    """Asks over links of its own, one to each Redis that has partitions, which stay open."""

    def __init__(self, settings: Settings, partitioning: Partitioning, cluster: ClusterMap | None) -> None:
        self._settings = settings
        self._partitioning = partitioning
        self._links = KeyLinks(settings, cluster)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio_asyncio.open_loop() as self._loop:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._loop = None
                with trio.CancelScope(shield=True):  # it waits for nobody
                    await trio_asyncio.aio_as_trio(self._links.close)()

    def partitions(self, targets: Iterable[Target] | None) -> list[Partition]:
        """Those that have messages for these targets; all for None."""
        if targets is None:
            return [partition for layout in self._partitioning.layouts for partition in layout.all]
        return self._partitioning.of_all(targets)

    async def ask(self, partitions: Iterable[Partition]) -> str:
        """The id of the place that these have come to. Raises UnavailableError."""
        if self._loop is None:
            raise UnavailableError("not connected to Redis yet", unsure=False)
        try:
            text: str = await trio_asyncio.aio_as_trio(self._ask, loop=self._loop)(list(partitions))
        except ERRORS as error:
            raise UnavailableError(of_redis(error, self._settings), unsure=False) from None
        return text

    async def _ask(self, partitions: list[Partition]) -> str:
        async with answer_within(ANSWER_SECONDS):
            homes: dict[Address | None, list[Partition]] = {}
            for partition in partitions:
                homes.setdefault(self._links.address_of(self._key(partition)), []).append(partition)
            last: dict[Partition, EntryId] = {}
            for home, own in homes.items():
                answers = await self._calls(home, [self._command(partition) for partition in own])
                for partition, answer in zip(own, answers, strict=True):
                    last[partition] = info_of(await self._settled(partition, answer)).last
        parts = [(partition, part_text(partition, last[partition])) for partition in partitions]
        return place_text(parts, published=True)

    async def _calls(self, home: Address | None, commands: list[Command]) -> list[Any]:
        try:
            return await self._links.calls(home, commands)
        except ERRORS:  # the link may have been closed while nobody asked
            return await self._links.calls(home, commands)

    async def _settled(self, partition: Partition, answer: Any) -> Any:
        """The answer, also if another master has the partition now."""
        if not isinstance(answer, AskError):
            return answer
        try:
            return await self._links.call(self._key(partition), *self._command(partition))
        except ResponseError as error:
            return error

    def _key(self, partition: Partition) -> bytes:
        return self._partitioning.key(partition).encode()

    def _command(self, partition: Partition) -> Command:
        return ("XINFO", "STREAM", self._key(partition))
