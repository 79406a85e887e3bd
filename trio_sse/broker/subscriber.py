"""Redis → hub: subscribes to the channel, and reads the log if there is one."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

import structlog
import trio
import trio_asyncio

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.canary import Canary
from trio_sse.broker.errors import IS_REPLICA
from trio_sse.broker.feed import PING_SECONDS, PONG_SECONDS, Feed
from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, open_link, replicates
from trio_sse.broker.log_reader import LogReader
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.resume import Resumer
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.subscriber")


class Subscriber:
    """Keeps one link to Redis subscribed to the channel, and runs the readers of the log."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        resumer: Resumer,
        *,
        canary: Canary | None = None,
        ping_seconds: float = PING_SECONDS,
        pong_seconds: float = PONG_SECONDS,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._intake = Intake(hub, settings.max_message_bytes)
        self._feed = Feed(
            hub,
            self._intake,
            {b"message": self._message if canary is None else partial(self._message_or, canary)},
            ping_seconds=ping_seconds,
            pong_seconds=pong_seconds,
        )
        self._log_reader: LogReader | None = None
        if settings.redis_stream is not None:
            self._log_reader = LogReader(
                settings,
                settings.redis_stream,
                hub,
                resumer,
                self._intake,
                block_seconds=ping_seconds,
                silence_seconds=ping_seconds + pong_seconds,
            )
        self._attempts = Attempts(settings, settings.redis_address)
        if hub.recorder is not None:
            self._attempts.noted = hub.recorder.trouble
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that redis-py runs in, while the subscriber runs."""

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None. For the log: it has the address of Redis."""
        if not self._attempts.succeeded:
            return self._attempts.problem
        return self._feed.problem(self._settings.redis_address)

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        return "redis_silent" if self._attempts.succeeded else self._attempts.code

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, read, and on any of ERRORS begin again, until cancelled.

        `started()` is called after the first attempt, whatever its outcome: the service starts without Redis
        too. All of it runs inside one asyncio task, since each switch between the two loops costs more than a
        message.
        """
        async with trio_asyncio.open_loop() as self.loop:
            await trio_asyncio.aio_as_trio(self._keep_subscribed)(task_status)

    async def _keep_subscribed(self, task_status: trio.TaskStatus[None]) -> None:
        self._attempts.tried = task_status.started
        await self._attempts.run(self._serve)

    async def _serve(self) -> None:
        log_reader = self._log_reader
        async with contextlib.AsyncExitStack() as stack:
            if log_reader is not None:
                await stack.enter_async_context(log_reader)
            link = await stack.enter_async_context(open_link(self._settings))
            await self._subscribe(link)
            beside = () if log_reader is None else (log_reader.follow, log_reader.answer_pending)
            await self._feed.run(link, *beside)

    async def _subscribe(self, link: Link) -> None:
        channel = self._settings.redis_channel
        async with answer_within(CONNECT_SECONDS):
            master = await replicates(link)
            await link.send_command("SUBSCRIBE", channel)
            await link.read_response()
        self._feed.heard()
        again = not self._attempts.first
        self._attempts.success()
        self._hub.history.subscribed()
        log.info("subscribed to Redis", redis=self._settings.redis_address, channel=channel)
        if master is not None:
            log.warning(IS_REPLICA, redis=self._settings.redis_address, master=master)
        if again:
            # What was published meanwhile is not known, so every connection gets a gap. With a log, only if
            # the channel is used too.
            self._hub.counters.redis_reconnects += 1
            if self._log_reader is None or self._hub.history.sources.channel_since is not None:
                self._hub.announce_gap("redis_reconnected")

    def _message_or(self, canary: Canary, response: list[Any]) -> None:
        if not canary.takes(response[2]):
            self._message(response)

    def _message(self, response: list[Any]) -> None:
        payload = response[2]
        if type(payload) is bytes:
            self._intake.receive(payload)
