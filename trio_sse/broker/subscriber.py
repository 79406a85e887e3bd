"""Redis → hub: subscribes to the channel, and reads the log if there is one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import Any

import structlog
import trio
import trio_asyncio
from redis.exceptions import InvalidResponse

from trio_sse.broker.errors import advice, is_refusal
from trio_sse.broker.link import CONNECT_SECONDS, ERRORS, Link, answer_within, open_link, replicates
from trio_sse.broker.log_reader import LogReader
from trio_sse.broker.takeover import NOTHING, Takeover, can_take_over
from trio_sse.delivery.hub import MAX_PENDING_BYTES, Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.resume import Resumer
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.subscriber")

PING_SECONDS = 5.0
PONG_SECONDS = 10.0
"""No answer to a PING for so long means a lost link. redis-py sends PINGs but does not check for the PONG."""
SILENCE_SECONDS = 15.0
"""Silence after which the service is not ready."""
BACKOFF_SECONDS = (0.1, 5.0)

TURNS_OF_A_SERVER = 5
"""Turns of the loop that an ASGI server takes for a write; Hypercorn with Quart takes 3. Messages that come
meanwhile wait in SSE_BUFFER. If Redis were read in each turn, it would be full though the client is quick."""


class Subscriber:
    """Keeps one link to Redis subscribed to the channel, and runs the readers of the log."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        resumer: Resumer,
        *,
        ping_seconds: float = PING_SECONDS,
        pong_seconds: float = PONG_SECONDS,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._intake = Intake(hub, settings.max_message_bytes)
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
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._subscribed = False
        self._problem = "Redis: not connected yet"
        self._code = "redis_not_tried"
        self._ever_tried = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that redis-py runs in, while the subscriber runs."""
        self._answered = asyncio.Event()
        self._last_answer = -math.inf

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None. For the log: it has the address of Redis."""
        if not self._subscribed:
            return self._problem
        silence = trio.current_time() - self._last_answer
        if silence > SILENCE_SECONDS:
            return f"Redis at {self._settings.redis_address} has not answered for {silence:.0f} s"
        return None

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        return "redis_silent" if self._subscribed else self._code

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, read, and on any of ERRORS begin again, until cancelled.

        `started()` is called after the first attempt, whatever its outcome: the service starts without Redis
        too. All of it runs inside one asyncio task, since each switch between the two loops costs more than a
        message.
        """
        async with trio_asyncio.open_loop() as self.loop:
            await trio_asyncio.aio_as_trio(self._keep_subscribed)(task_status)

    async def _keep_subscribed(self, task_status: trio.TaskStatus[None]) -> None:
        low, high = BACKOFF_SECONDS
        ceiling = low
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    if self._log_reader is not None:
                        await stack.enter_async_context(self._log_reader)
                    link = await stack.enter_async_context(open_link(self._settings))
                    await self._subscribe(link)
                    ceiling = low
                    self._start_once(task_status)
                    await self._read_and_ping(link)
            except ERRORS as error:
                self._lost(error)
            except ExceptionGroup as group:
                # From the task group: the reader's error, the pinger's, or both.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError from group  # a task group prefers errors to a cancellation
                others = group.split(ERRORS)[1]
                if others is not None:
                    raise others from None
                self._lost(group.exceptions[0])
            self._start_once(task_status)
            await asyncio.sleep(random.uniform(low / 2, ceiling))  # noqa: S311  jitter, not a secret
            ceiling = min(ceiling * 2, high)

    def _start_once(self, task_status: trio.TaskStatus[None]) -> None:
        if not self._ever_tried:
            self._ever_tried = True
            task_status.started()

    async def _subscribe(self, link: Link) -> None:
        channel = self._settings.redis_channel
        async with answer_within(CONNECT_SECONDS):
            master = await replicates(link)
            await link.send_command("SUBSCRIBE", channel)
            await link.read_response()
        self._last_answer = trio.current_time()
        self._subscribed = True
        self._hub.history.subscribed()
        log.info("subscribed to Redis", redis=self._settings.redis_address, channel=channel)
        if master is not None:
            log.warning(
                "Redis is a replica: what is published at it, and not at its master, reaches only its own "
                "subscribers, and POST /publish is refused",
                redis=self._settings.redis_address,
                master=master,
            )
        if self._ever_tried:
            # What was published meanwhile is not known, so every connection gets a gap. With a log, only if
            # the channel is used too.
            self._hub.counters.redis_reconnects += 1
            if self._log_reader is None or self._hub.history.sources.channel_since is not None:
                self._hub.announce_gap("redis_reconnected")

    def _lost(self, error: BaseException) -> None:
        """Store the problem, and log it if it is new: one line per change of state, not per try."""
        problem = f"Redis at {self._settings.redis_address}: {advice(error, self._settings)}"
        if self._subscribed or problem != self._problem:
            lost = self._subscribed
            log.warning("lost Redis, trying again" if lost else "no Redis, trying again", problem=problem)
        self._subscribed = False
        self._problem = problem
        self._code = "redis_refused" if is_refusal(error) else "redis_unreachable"

    async def _read_and_ping(self, link: Link) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ping(link))
            if self._log_reader is not None:
                tasks.create_task(self._log_reader.follow())
                tasks.create_task(self._log_reader.answer_pending())
            await self._read(link)

    async def _ping(self, link: Link) -> None:
        task = asyncio.current_task()
        while task is not None and not task.cancelling():
            await asyncio.sleep(self._ping_seconds)
            self._answered.clear()
            await link.send_command("PING", check_health=False)
            async with answer_within(self._pong_seconds):
                await self._answered.wait()

    async def _read(self, link: Link) -> None:
        if can_take_over(link):
            with Takeover(link) as takeover:
                await trio_asyncio.trio_as_aio(self._read_in_trio)(takeover)
        else:
            await self._read_in_asyncio(link)

    async def _read_in_trio(self, takeover: Takeover) -> None:
        hub, answered, counters = self._hub, self._answered, self._hub.counters
        while True:
            self._last_answer = trio.current_time()
            before = counters.received
            if self._dispatch(takeover):
                await hub.wait_taken()
                continue
            if not answered.is_set():
                answered.set()
            patiently = False
            if not hub.pending.is_set():  # else the flusher takes its time
                if hub.by_server:
                    for _ in range(TURNS_OF_A_SERVER):
                        await trio.lowlevel.checkpoint()
                else:
                    patiently = counters.received > before + 1  # several at once: more are coming
            await takeover.receive(patiently=patiently)

    def _dispatch(self, takeover: Takeover) -> bool:
        """Dispatch all that was received. Returns whether there is more, and too much waits for the
        flusher."""
        hub, intake, parse = self._hub, self._intake, takeover.parse
        with intake:
            while True:
                try:
                    response = parse(False)
                except TypeError as error:  # a RESP 3 map whose key is no text
                    raise InvalidResponse(str(error)) from error
                if response is NOTHING:
                    break
                if _is_message(response):
                    intake.receive(response[2])
                    if hub.pending_bytes > MAX_PENDING_BYTES:
                        return True
                elif isinstance(response, Exception):
                    raise response
        return False

    async def _read_in_asyncio(self, link: Link) -> None:
        # While the parser has buffered input this loop does not yield, so the flusher runs when all that
        # one read of the socket brought has been dispatched.
        read, answered, hub = link.read_response, self._answered, self._hub
        while True:
            response = await read(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._last_answer = trio.current_time()
            if _is_message(response):
                self._intake.receive(response[2])
                if hub.pending_bytes > MAX_PENDING_BYTES:
                    await trio_asyncio.trio_as_aio(hub.wait_taken)()
            if not answered.is_set():
                answered.set()


def _is_message(response: Any) -> bool:
    """Whether a reply is a message of the channel. Redis sends nothing else that looks like one."""
    return (
        type(response) is list
        and len(response) == 3
        and response[0] == b"message"
        and type(response[2]) is bytes
    )
