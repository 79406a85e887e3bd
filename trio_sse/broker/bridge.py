"""The shared channel, or the log → channels by key, for back ends that cannot change. asyncio only."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from redis.exceptions import ResponseError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.channels import GAP, Channels
from trio_sse.broker.feed import PING_SECONDS, PONG_SECONDS
from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, call, open_link
from trio_sse.broker.log import PAGE
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.sender import Copy
from trio_sse.delivery import messages
from trio_sse.delivery.event_ids import entry_id
from trio_sse.delivery.targets import ALL
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.bridge")

GROUP = "trio_sse"
"""The consumer group of all bridges."""

BLOCK_SECONDS = 5
IDLE_SECONDS = 15
"""An entry that a bridge took so long ago, and has not published, is taken over by another one."""

MakePost = Callable[[], Awaitable[Post]]


class Bridge:
    """Reads the channel of `source`, or its log if it has one, and publishes by key as `settings` say.

    Several may read one log: each entry goes to one of them. What one has read and not published when it dies
    is taken over. If it did publish it, those who got it know it by its copy. Of a channel, each bridge gets
    every message, so one is enough, and what is published while it is away is lost: each time that it begins,
    all streams get a `gap`.
    """

    def __init__(self, source: Settings, settings: Settings, make_post: MakePost, name: str) -> None:
        self._source = source
        self._settings = settings
        self._make_post = make_post
        self._channels = Channels(settings.redis_channel)
        self._name = name
        self._attempts = Attempts(source, source.redis_address)
        self.published = 0
        """Copies that were published."""
        self.skipped = 0
        """Messages that cannot be delivered to anybody."""

    async def run(self) -> None:
        """Until cancelled. When Redis is lost, it begins again."""
        await self._attempts.run(self._serve)

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            stream = self._source.redis_stream
            link = await stack.enter_async_context(open_link(self._source, database=stream is not None))
            self._links = await stack.enter_async_context(OpenLinks(self._settings))
            self._post = await self._make_post()
            if stream is None:
                await self._follow_channel(link)
            else:
                await self._follow_log(link, stream)

    async def _follow_channel(self, link: Link) -> None:
        channel = self._source.redis_channel
        async with answer_within(CONNECT_SECONDS):
            await call(link, "SUBSCRIBE", channel)
        await self._post.publish([(self._channels.of(ALL), GAP)], self._links)
        self._began(channel=channel)
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_ping(link, answered))
            while True:
                payloads = [await _message(link)]
                answered.set()
                while len(payloads) < PAGE and link._parser._reader.has_data():  # type: ignore[attr-defined]
                    payloads.append(await _message(link))
                await self._publish((payload, None) for payload in payloads if payload is not None)

    async def _follow_log(self, link: Link, stream: str) -> None:
        async with answer_within(CONNECT_SECONDS):
            try:
                await call(link, "XGROUP", "CREATE", stream, GROUP, "$", "MKSTREAM")
            except ResponseError as error:
                if "BUSYGROUP" not in f"{getattr(error, 'status_code', '')} {error}":
                    raise
        self._began(stream=stream, group=GROUP)
        last = asyncio.get_running_loop().time()
        entries = await self._pending(link, stream)
        while True:
            if entries:
                await self._publish((_payload(fields), number) for number, fields in entries)
                await call(link, "XACK", stream, GROUP, *[number for number, _ in entries])
            now = asyncio.get_running_loop().time()
            if now - last > IDLE_SECONDS:
                last = now
                entries = await self._abandoned(link, stream)
                if entries:
                    continue
            async with answer_within(BLOCK_SECONDS + CONNECT_SECONDS):
                entries = await self._read(link, stream, ">", BLOCK_SECONDS * 1000)

    async def _read(self, link: Link, stream: str, after: str, block: int | None) -> list[Any]:
        waiting = () if block is None else ("BLOCK", block)
        words = ("GROUP", GROUP, self._name, "COUNT", PAGE, *waiting, "STREAMS", stream, after)
        found = await call(link, "XREADGROUP", *words)
        return found[0][1] if found else []

    async def _pending(self, link: Link, stream: str) -> list[Any]:
        """What this bridge had read and not published."""
        return await self._read(link, stream, "0", None)

    async def _abandoned(self, link: Link, stream: str) -> list[Any]:
        """What another one had read and not published."""
        answer = await call(
            link, "XAUTOCLAIM", stream, GROUP, self._name, IDLE_SECONDS * 1000, "0", "COUNT", PAGE
        )
        return [entry for entry in answer[1] if entry[1] is not None]

    def _began(self, **source: object) -> None:
        if not self._attempts.succeeded:
            log.info("routing", redis=self._source.redis_address, **source)
        self._attempts.success()

    async def _publish(self, payloads: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        copies: list[Copy] = []
        for payload, number in payloads:
            try:
                if payload is None:
                    raise messages.MessageError("an entry of SSE_REDIS_STREAM without the field `payload`")  # noqa: TRY301
                entry = None if number is None else entry_id(number)
                notification = messages.decode(payload, self._source.max_message_bytes, entry)
            except messages.MessageError as error:
                self.skipped += 1
                log.warning("message skipped", reason=str(error))
                continue
            copy = None if number is None else _copy_of(number)
            copies += self._channels.copies(notification, payload, copy)
        if copies:
            await self._post.publish(copies, self._links)
            self.published += len(copies)


async def _ping(link: Link, answered: asyncio.Event) -> None:
    """Raises TimeoutError when nothing comes for too long."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        answered.clear()
        await link.send_command("PING", check_health=False)
        async with answer_within(PONG_SECONDS):
            await answered.wait()


async def _message(link: Link) -> bytes | None:
    """The next payload of the channel. None: it was another answer."""
    response = await call(link)
    return response[2] if response[0] == b"message" else None


def _payload(fields: list[bytes] | None) -> bytes | None:
    fields = fields or []
    return next((fields[at + 1] for at in range(0, len(fields), 2) if fields[at] == b"payload"), None)


def _copy_of(number: bytes) -> str:
    """What the copies of this entry have in common, whichever bridge publishes them."""
    return base64.urlsafe_b64encode(hashlib.sha256(number).digest()[:16])[:22].decode()
