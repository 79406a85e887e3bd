"""Messages by hand to the channels of those they are for, or to the partitions of the log."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Self

from trio_sse.broker.channels import Channels
from trio_sse.broker.entries import Entries
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.topology import map_of
from trio_sse.delivery import messages
from trio_sse.delivery.messages import Notification
from trio_sse.settings import Settings


class Sent(NamedTuple):
    """What became of a message: its subscribers, those of all its copies together, and its channels."""

    subscribers: int
    channels: list[str]


class Added(NamedTuple):
    """What became of a message: its entries, and their keys; and the id that a stream may begin with."""

    entries: list[str]
    keys: list[str]
    place: str


class _Sender:
    """Sends messages, over links that stay open as long as it does."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._links = OpenLinks(settings, database=settings.partitioned)
        self._post: Post | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._links.__aexit__())

    async def _ready(self) -> Post:
        if self._post is None:
            self._post = await post_of(self._settings)
        return self._post

    def _read(self, message: bytes) -> Notification:
        return messages.decode(message, self._settings.max_message_bytes)


class KeyedSender(_Sender):
    """To channels by key."""

    def send(self, message: bytes) -> Sent:
        """Publish it. Raises one of link.ERRORS."""
        return self._runner.run(self._send(message))

    async def _send(self, message: bytes) -> Sent:
        post = await self._ready()
        channels = Channels(self._settings.redis_channel)
        copies = list(channels.copies(self._read(message), message))
        subscribers = sum(await post.publish(copies, self._links))
        return Sent(subscribers, [channel.decode() for channel, _ in copies])


class PartitionSender(_Sender):
    """To the partitions of the log."""

    def send(self, message: bytes) -> Added:
        """Add it. Raises one of link.ERRORS."""
        return self._runner.run(self._send(message))

    async def _send(self, message: bytes) -> Added:
        post, entries, notification = await self._ready(), Entries(self._settings), self._read(message)
        copies = entries.copies(notification, message)
        answers = await post.give([entries.order(copy) for copy in copies], self._links)
        ids = [answer.decode() for answer in answers]
        place = entries.place(entries.numbers(notification), ids)
        return Added(ids, [key.decode() for key, _ in copies], place)


async def post_of(settings: Settings) -> Post:
    """What publishes by key, or to partitions. A cluster is asked who serves what; raises one of link.ERRORS
    if none of its nodes answers."""
    return Post(await map_of(settings) if settings.redis_cluster else None)
