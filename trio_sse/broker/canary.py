"""A message that the service publishes to itself: whether the way through Redis works, however well both
ends look."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any, Protocol

import structlog
import trio
import trio_asyncio
from redis.exceptions import ResponseError

from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.errors import advice
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.link import ERRORS
from trio_sse.broker.log import info_of
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.interest import Interest
from trio_sse.delivery.targets import Target, topic
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.canary")

PATIENCE_SECONDS = 5.0
"""A message that has not come back after so long is lost."""

_NAME = "trio_sse.canary"
_BEGINS = b'{"%b":' % _NAME.encode()


class Subscribed(Protocol):
    """Keeps the service subscribed."""

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None."""
        ...


class Canary:
    """Goes the way of messages and is none: no stream gets it, it is not kept and has no id.

    From a shared channel each process gets the canaries of all, and leaves them out before they are looked
    at. One that has none of its own gets a message that has expired. By key it has a channel of its own. The
    log gets no canary, which would take the place of messages there. Instead, what the log had the last time
    must have been read meanwhile, or a part of it.
    """

    def __init__(
        self,
        settings: Settings,
        history: History,
        cluster: ClusterMap | None = None,
        interest: Interest | None = None,
    ) -> None:
        self.problem: str | None = None
        """Why the way is broken, or None. For the log: it has the address of Redis."""
        self.target: Target | None = None
        """What it is for by key, as if a stream followed it."""
        self._settings = settings
        self._history = history
        self._cluster = cluster
        self._interest = interest
        self._token = secrets.token_hex(8)
        self._number = 0
        self._payload = b""
        self._back = asyncio.Event()
        self._unread: tuple[EntryId, EntryId] | None = None
        if interest is not None:
            self.target = topic(f"{_NAME}.{self._token}")
            interest.followed(self.target)

    def takes(self, payload: object) -> bool:
        """Whether this came back to a canary, of whichever process."""
        if type(payload) is not bytes or not payload.startswith(_BEGINS):
            return False
        if payload == self._payload:
            self._back.set()
        return True

    async def run(
        self, subscribed: Subscribed, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled. It waits while the service is not `subscribed`."""
        async with trio_asyncio.open_loop():
            task_status.started()
            await trio_asyncio.aio_as_trio(self._fly)(subscribed)

    async def _fly(self, subscribed: Subscribed) -> None:
        reads = self._settings.redis_stream is not None
        links = KeyLinks(self._settings, self._cluster, database=reads)
        seconds = self._settings.canary_seconds
        try:
            await asyncio.sleep(random.uniform(0, seconds))  # noqa: S311  not all processes at once
            while True:
                if subscribed.problem is None and self._is_heard:
                    self._note(await self._look(links))
                else:
                    self._unread = None
                    self._note(None)
                await asyncio.sleep(seconds)
        finally:
            await links.close()

    @property
    def _is_heard(self) -> bool:
        """Whether what is published would come: by key a master may be away that others do without."""
        return self._interest is None or self.target is None or self._interest.hears((self.target,))

    async def _look(self, links: KeyLinks) -> str | None:
        """What is wrong, or None."""
        address = self._settings.redis_address
        try:
            await self._publish(links)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._back.wait()
            except TimeoutError:
                return f"what was published to Redis at {address} has not come back"
            if await self._is_left_unread(links):
                return f"SSE_REDIS_STREAM at {address} has entries, and none of them is read"
        except ERRORS as error:
            return f"Redis at {address}: nothing can be published: {advice(error, self._settings)}"
        return None

    async def _publish(self, links: KeyLinks) -> None:
        self._number += 1
        self._payload = b'%b"%b.%d","topic":"%b","ttl":0}' % (
            _BEGINS,
            self._token.encode(),
            self._number,
            _NAME.encode(),
        )
        self._back.clear()
        channel = self._settings.redis_channel.encode()
        if self.target is not None:
            channel = Channels(self._settings.redis_channel).of(self.target)
        verb = b"PUBLISH" if self._cluster is None else b"SPUBLISH"
        await links.call(channel, verb, channel, self._payload)

    async def _is_left_unread(self, links: KeyLinks) -> bool:
        """Whether the log had entries the last time, and none was read since."""
        stream, before = self._settings.redis_stream, self._unread
        if stream is None:
            return False
        try:
            answer: Any = await links.call(stream.encode(), "XINFO", "STREAM", stream)
        except ResponseError as error:
            answer = error
        has, read = info_of(answer).last, self._history.last_entry or (0, 0)
        self._unread = (read, has) if has > read else None
        return before is not None and read == before[0] and self._unread is not None

    def _note(self, problem: str | None) -> None:
        """Store the problem, and log it if it is new."""
        if problem is not None and self.problem is None:
            log.error("the way through Redis is broken", problem=problem)
        elif problem is None and self.problem is not None:
            log.info("the way through Redis works again")
        self.problem = problem
