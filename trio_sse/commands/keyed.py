"""Messages by hand to the channels of those they are for."""

from __future__ import annotations

import asyncio
import time

from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.open_links import IDLE_SECONDS, OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.topology import look
from trio_sse.delivery import messages
from trio_sse.settings import Settings


class KeyedSender:
    """Sends messages, over links that stay open as long as it does."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._channels = Channels(settings.redis_channel)
        self._links = OpenLinks(settings)
        self._post: Post | None = None
        self._used_at = 0.0

    def __enter__(self) -> KeyedSender:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._links.__aexit__())

    def send(self, message: bytes) -> int:
        """Publish it. Returns how many subscribers its copies had in all. Raises one of link.ERRORS."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._runner.run(self._links.__aexit__())
        subscribers = self._runner.run(self._send(message))
        self._used_at = time.monotonic()
        return subscribers

    async def _send(self, message: bytes) -> int:
        if self._post is None:
            self._post = await post_of(self._settings)
        notification = messages.decode(message, self._settings.max_message_bytes)
        copies = list(self._channels.copies(notification, message))
        return sum(await self._post.publish(copies, self._links))


async def post_of(settings: Settings) -> Post:
    """What publishes by key. A cluster is asked who serves what; raises one of link.ERRORS if none of its
    nodes answers."""
    if not settings.redis_cluster:
        return Post(None)
    cluster = ClusterMap(Channels(settings.redis_channel).of)
    cluster.learn((await look(settings)).ranges)
    return Post(cluster)
