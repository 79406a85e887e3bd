"""The shared channel, or the log → channels by key, or the partitions of a log, for back ends that cannot
change. asyncio only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from redis.exceptions import NoPermissionError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.channels import Channels, copy_of
from trio_sse.broker.cluster_map import Address
from trio_sse.broker.consumer_group import ConsumerGroup
from trio_sse.broker.entries import Entries
from trio_sse.broker.errors import PartlyError, advice, of_redis
from trio_sse.broker.feed import keep_pinging
from trio_sse.broker.link import CONNECT_SECONDS, ERRORS, Link, answer_within, call, open_link
from trio_sse.broker.log import PAGE
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Order, Post
from trio_sse.broker.sender import Copy
from trio_sse.broker.topology import map_of
from trio_sse.delivery import messages
from trio_sse.delivery.event_ids import entry_id
from trio_sse.delivery.notices import GAP
from trio_sse.delivery.targets import ALL
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.bridge")

GROUP = "trio_sse"
"""The consumer group of all bridges."""

GAP_SECONDS = 5.0
"""How often all streams get a `gap` at the most, while messages of a channel are lost."""

MakePost = Callable[[], Awaitable[Post]]

_Outgoing = Copy | Order
"""A copy for a channel, or what adds it to a partition."""


class _UnpublishedError(ConnectionError):
    """Redis did not take what was to be published. The text is a line for the log."""


class Bridge:
    """Reads the channel of `source`, or its log if it has one, and publishes by key, or to partitions, as
    `settings` say.

    Of a log nothing is lost: an entry counts as done when all its copies are published. Several may read one:
    each entry goes to one of them, and what one has taken and not finished when it dies is taken over. Those
    who got it by a channel already know it by its copy, and a partition knows what it has.

    Of a channel, each bridge gets every message, so one is enough. What comes while it is away, or while a
    master is that serves a copy, is lost, and all streams get a `gap`.
    """

    def __init__(self, source: Settings, settings: Settings, make_post: MakePost, name: str) -> None:
        self._source = source
        self._settings = settings
        self._make_post = make_post
        self._channels = Channels(settings.redis_channel)
        self._entries = Entries(settings) if settings.partitioned else None
        self._attempts = Attempts(source, source.redis_address, self._told)
        self._group = ConsumerGroup(source.redis_stream or "", GROUP, name)
        self._links = OpenLinks(settings, database=settings.partitioned)
        self._post: Post | None = None
        self._turn = asyncio.Lock()
        self._left: list[_Outgoing] = []
        self._unfinished: list[bytes] = []
        self._owes_gap = False
        self._problem: str | None = None
        self._at_work = False
        self._stopping = False
        self.published = 0
        """Copies that were published."""
        self.skipped = 0
        """Messages that cannot be delivered to anybody."""
        self.lost = 0
        """Copies that could not be published."""

    async def run(self) -> None:
        """Until cancelled, or stopped: then it ends as if cancelled. When Redis is lost, it begins again."""
        async with self._links:
            await self._attempts.run(self._serve)

    def stop(self, task: asyncio.Task[None]) -> None:
        """End `task`, which runs this: after what it has taken from Redis was published. At once if that is
        said again."""
        if self._stopping or not self._at_work:
            task.cancel()
        self._stopping = True

    async def _serve(self) -> None:
        stream = self._source.redis_stream
        async with open_link(self._source, database=stream is not None, at=await self._where(stream)) as link:
            self._post = None  # who serves what is looked up anew
            if stream is None:
                await self._follow_channel(link)
            else:
                await self._follow_log(link, stream)

    async def _where(self, stream: str | None) -> Address | None:
        """The master of a cluster that has the log. A channel is at each of them."""
        if not self._source.redis_cluster:
            return None
        cluster = await map_of(self._source)
        return cluster.address_of((stream or self._source.redis_channel).encode())

    async def _follow_channel(self, link: Link) -> None:
        channel = self._source.redis_channel
        async with answer_within(CONNECT_SECONDS):
            await call(link, "SUBSCRIBE", channel)
        self._owes_gap = True
        await self._tell_gap()
        self._began(channel=channel)
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_pinging(link, answered))
            tasks.create_task(self._tell_gaps())
            while True:
                payloads = [await _message(link)]
                answered.set()
                while len(payloads) < PAGE and link._parser._reader.has_data():  # type: ignore[attr-defined]
                    payloads.append(await _message(link))
                with self._work():
                    copies = self._copies((payload, None) for payload in payloads if payload is not None)
                    if copies:
                        await self._publish_some(copies)

    async def _tell_gaps(self) -> None:
        """Let all streams know that messages may be missing, and not for each one anew."""
        while True:
            await asyncio.sleep(GAP_SECONDS)
            if self._owes_gap:
                with contextlib.suppress(_UnpublishedError):
                    await self._tell_gap()

    async def _tell_gap(self) -> None:
        self._owes_gap = False
        try:
            await self._publish(self._gaps())
        except BaseException:
            self._owes_gap = True
            raise

    def _gaps(self) -> list[_Outgoing]:
        """What tells all streams that messages may be missing."""
        if self._entries is not None:
            return [*self._entries.gaps()]
        return [(self._channels.of(ALL), GAP)]

    async def _publish_some(self, copies: list[_Outgoing]) -> None:
        """Publish what can be published."""
        try:
            await self._publish(copies)
        except _UnpublishedError as error:
            cause = error.__cause__
            left = len(cause.left) if isinstance(cause, PartlyError) else len(copies)
            self.lost += left
            self.published += len(copies) - left
            reason = cause.reason if isinstance(cause, PartlyError) else cause
            if not isinstance(reason, NoPermissionError):  # that lasts, and would be a gap for all each time
                self._owes_gap = True
            if str(error) != self._problem:
                log.warning("messages are lost", problem=str(error))
            self._problem = str(error)
        else:
            self.published += len(copies)
            if self._problem is not None:
                log.info("messages are published again", lost=self.lost)
            self._problem = None

    async def _follow_log(self, link: Link, stream: str) -> None:
        await self._settle(link)
        missing = await self._group.enter(link)
        self._began(stream=stream, group=GROUP)
        entries: list[tuple[bytes, bytes | None]] = []
        while True:
            if missing:
                log.warning("entries may be missing: the log is new, was trimmed or deleted", stream=stream)
                self._owes_gap = True
            if self._owes_gap:
                await self._tell_gap()
            if entries:
                with self._work():
                    self._left = self._copies((payload, number) for number, payload in entries)
                    self._unfinished = [number for number, _ in entries]
                    await self._settle(link)
            entries, missing = await self._group.take(link)

    async def _settle(self, link: Link) -> None:
        """Publish what is left of what was taken from the log, and finish it."""
        if self._left:
            count = len(self._left)
            try:
                await self._publish(self._left)
            except _UnpublishedError as error:
                if isinstance(error.__cause__, PartlyError):
                    self._left = [self._left[place] for place in error.__cause__.left]
                    self.published += count - len(self._left)
                raise
            self.published += count
            self._left = []
        if self._unfinished:
            await self._group.finish(link, self._unfinished)
            self._unfinished = []

    async def _publish(self, copies: list[_Outgoing]) -> None:
        """Raises _UnpublishedError, from one of link.ERRORS."""
        async with self._turn:
            try:
                if self._post is None:
                    self._post = await self._make_post()
                orders = [one if isinstance(one, Order) else self._post.order(one) for one in copies]
                await self._post.give(orders, self._links)
            except ERRORS as error:
                self._post = None
                raise _UnpublishedError(of_redis(error, self._settings)) from error

    def _copies(self, payloads: Iterable[tuple[bytes | None, bytes | None]]) -> list[_Outgoing]:
        """The copies of messages: each its payload, and its id in the log."""
        copies: list[_Outgoing] = []
        for payload, number in payloads:
            try:
                if payload is None:
                    raise messages.MessageError("an entry without the field `payload`, or deleted")  # noqa: TRY301
                entry = None if number is None else entry_id(number)
                notification = messages.decode(payload, self._source.max_message_bytes, entry)
            except messages.MessageError as error:
                self.skipped += 1
                log.warning("message skipped", reason=str(error))
                continue
            data, copy = notification.data, None
            if number is not None:
                copy = _copy_of(number, payload)
                if notification.expires_at is not None:
                    if notification.expires_at <= time.time():
                        continue
                    data = messages.with_expiry(data, notification.expires_at)
            if self._entries is None:
                copies += self._channels.copies(notification, data, copy)
            else:
                for one in self._entries.copies(notification, data):
                    if copy is None or entry is None:
                        copies.append(self._entries.order(one))
                    else:
                        copies.append(self._entries.routed(one, copy, entry))
        return copies

    def _began(self, **source: object) -> None:
        if not self._attempts.succeeded:
            to = {} if self._entries is None else {"to": self._entries.name}
            log.info("routing", redis=self._source.redis_address, **source, **to)
        self._attempts.success()

    def _told(self, error: BaseException) -> str:
        """An error as a line that names the option to look at."""
        if isinstance(error, _UnpublishedError):
            return str(error)
        text = advice(error, self._source).replace("SSE_REDIS_STREAM", "--from-stream")
        if self._source.redis_url != self._settings.redis_url:
            text = text.replace("REDIS_URL", "--from")
        return f"Redis at {self._source.redis_address}: {text}"

    @contextmanager
    def _work(self) -> Iterator[None]:
        """A stop waits for the end of it."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
        if self._stopping:
            raise asyncio.CancelledError


async def _message(link: Link) -> bytes | None:
    """The next payload of the channel. None: it was another answer."""
    response = await call(link)
    return response[2] if response[0] == b"message" else None


def _copy_of(number: bytes, payload: bytes) -> str:
    """The same, whichever bridge publishes the entry. Entries of two logs may have one id."""
    return copy_of(b"%b %b" % (number, payload))
