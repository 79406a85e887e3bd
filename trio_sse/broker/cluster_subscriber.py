"""Redis Cluster → hub by key: a link to each master, subscribed to what it serves of those who are here."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog
import trio
import trio_asyncio
from redis.exceptions import MovedError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.cluster_map import Address, ClusterMap, redirected
from trio_sse.broker.echoes import Echoes
from trio_sse.broker.key_subscriber import expire_forever
from trio_sse.broker.link import ERRORS
from trio_sse.broker.shard_link import Parts, ShardLink
from trio_sse.broker.topology import View, look
from trio_sse.delivery.targets import ALL, Target

log = structlog.stdlib.get_logger("trio_sse.broker.cluster_subscriber")

LOOK_SECONDS = 10.0
"""How often a node is asked who serves what, while all is well."""

SOON_SECONDS = 0.5
"""How often while a master is away, or has refused a channel."""

_AT_ONCE = 500


class ClusterSubscriber:
    """Follows the cluster: its masters, and which slots each serves. A master that is lost touches those
    alone whose channels it serves, and only they get a `gap`."""

    def __init__(self, parts: Parts, cluster: ClusterMap) -> None:
        self._parts = parts
        self._cluster = cluster
        self._links: dict[Address, ShardLink] = {}
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._echoes = Echoes()
        self._look = asyncio.Event()
        self._well = False
        """Whether a node said so when it was asked last."""
        self._attempts = Attempts(parts.settings, parts.settings.redis_address)
        self._started: Callable[[], None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that redis-py runs in, while the subscriber runs."""
        parts.interest.followed(ALL)

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None. A master that is away is none: others are there. For the
        log: it has addresses."""
        if not self._links:
            return self._attempts.problem
        problems = [link.problem for link in self._links.values()]
        return problems[0] if all(problems) else None

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        return next(iter(self._links.values())).problem_code if self._links else self._attempts.code

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, read, and follow the cluster, until cancelled. `started()` is called when each of its
        masters was tried, or none is known."""
        async with trio_asyncio.open_loop() as self.loop, trio.open_nursery() as nursery:
            nursery.start_soon(expire_forever, self._parts.interest.expire, self._echoes.expire)
            self._started = task_status.started
            self._attempts.tried = self._tried
            await trio_asyncio.aio_as_trio(self._attempts.run)(self._follow)

    async def _follow(self) -> None:
        """Look who serves what, again and again. Raises one of ERRORS if no node can say."""
        async with asyncio.TaskGroup() as self._group:
            try:
                while True:
                    self._look.clear()
                    try:
                        view = await self._ask()
                    except ERRORS:
                        if not self._links:
                            raise
                    else:
                        await self._apply(view)
                        self._attempts.success()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._until_next_look()):
                            await self._look.wait()
                            await asyncio.sleep(SOON_SECONDS)
            finally:
                for task in self._tasks.values():
                    task.cancel()
                self._tasks.clear()
                self._links.clear()

    def _until_next_look(self) -> float:
        well = self._well and all(link.attempts.succeeded for link in self._links.values())
        return random.uniform(0.5, 1) * LOOK_SECONDS if well else SOON_SECONDS  # noqa: S311  jitter

    async def _ask(self) -> View:
        known = [address for address, link in self._links.items() if link.attempts.succeeded]
        random.shuffle(known)
        self._well = False
        view = await look(self._parts.settings, known, self._links)
        self._well = view.works
        return view

    async def _apply(self, view: View) -> None:
        losers = self._cluster.learn(view.ranges, in_doubt=not view.works)
        for address, shard in self._cluster.masters.items():
            if address not in self._links or self._links[address].shard is not shard:
                if address in self._tasks:
                    self._tasks[address].cancel()
                link = ShardLink(
                    self._parts,
                    shard,
                    address=address,
                    moved=self._moved,
                    lost=self._look.set,
                    echoes=self._echoes,
                )
                link.attempts.tried = self._tried
                self._links[address] = link
                self._tasks[address] = self._group.create_task(link.run())
            self._links[address].replicas = view.replicas.get(address, frozenset())
        # Other tasks run in between. What they see is right at any time: a target counts for the shard that
        # it is in, until it moves.
        for shard in losers:
            for number, target in enumerate([*shard.has, *shard.asked, *shard.queue]):
                if self._cluster.shard_of(target) is not shard:
                    self._parts.interest.moved(shard, target)
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._cluster.settled(shard)
        for address in self._links.keys() - self._cluster.masters.keys():
            log.info("left a node that serves nothing any more", redis=self._links.pop(address).name)
            self._tasks.pop(address).cancel()

    def _tried(self) -> None:
        untried = any(link.attempts.first for link in self._links.values())
        if self._started is not None and not untried:
            self._started()
            self._started = None

    def _moved(self, link: ShardLink, target: Target, error: MovedError) -> None:
        """A master does not serve this target, and says who does."""
        self._look.set()
        if self._cluster.shard_of(target) is link.shard:
            if error.slot_id in self._cluster.corrected:  # masters disagree: not round and round
                self._parts.interest.refused(link.shard, target)
                return
            self._cluster.correct(error.slot_id, redirected(error, link.address))
        self._parts.interest.moved(link.shard, target)
