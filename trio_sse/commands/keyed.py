"""Messages by hand to the channels of those they are for."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from trio_sse.broker.channels import Channels
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.topology import map_of
from trio_sse.delivery import messages
from trio_sse.settings import Settings


class Sent(NamedTuple):
    """What became of a message: its subscribers, those of all its copies together, and its channels."""

    subscribers: int
    channels: list[str]


class KeyedSender:
    """Sends messages, over links that stay open as long as it does."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._channels = Channels(settings.redis_channel)
        self._links = OpenLinks(settings)
        self._post: Post | None = None

    def __enter__(self) -> KeyedSender:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._links.__aexit__())

    def send(self, message: bytes) -> Sent:
        """Publish it. Raises one of link.ERRORS."""
        return self._runner.run(self._send(message))

    async def _send(self, message: bytes) -> Sent:
        if self._post is None:
            self._post = await post_of(self._settings)
        notification = messages.decode(message, self._settings.max_message_bytes)
        copies = list(self._channels.copies(notification, message))
        subscribers = sum(await self._post.publish(copies, self._links))
        return Sent(subscribers, [channel.decode() for channel, _ in copies])


async def post_of(settings: Settings) -> Post:
    """What publishes by key. A cluster is asked who serves what; raises one of link.ERRORS if none of its
    nodes answers."""
    return Post(await map_of(settings) if settings.redis_cluster else None)
