"""Redis → hub by key: subscribed to the channels of those who are here, and to no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import trio
import trio_asyncio

from trio_sse.broker.shard_link import Parts, ShardLink
from trio_sse.delivery.interest import Shard
from trio_sse.delivery.targets import ALL

EXPIRE_SECONDS = 1.0


class KeySubscriber:
    """Keeps one link to Redis subscribed to what streams follow."""

    def __init__(self, parts: Parts, shard: Shard) -> None:
        self._interest = parts.interest
        self._link = ShardLink(parts, shard)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that redis-py runs in, while the subscriber runs."""
        parts.interest.followed(ALL)

    @property
    def problem(self) -> str | None:
        """Why messages may be missing now, or None. For the log: it has the address of Redis."""
        return self._link.problem

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        return self._link.problem_code

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, read, and on any of ERRORS begin again, until cancelled. `started()` is called after the
        first attempt, whatever its outcome."""
        async with trio_asyncio.open_loop() as self.loop, trio.open_nursery() as nursery:
            nursery.start_soon(expire_forever, self._interest.expire)
            self._link.attempts.tried = task_status.started
            await trio_asyncio.aio_as_trio(self._link.run)()


async def expire_forever(*parts: Callable[[], None]) -> None:
    """Let parts give up what is too old, every second, until cancelled."""
    while True:
        await trio.sleep(EXPIRE_SECONDS)
        for expire in parts:
            expire()
