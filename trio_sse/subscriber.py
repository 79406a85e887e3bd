"""Redis → hub. The only room that knows Redis."""

from __future__ import annotations

import asyncio
import math
import random
import ssl
from types import TracebackType
from typing import Any

import structlog
import trio
import trio_asyncio
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from trio_sse import messages
from trio_sse.hub import Hub
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.subscriber")

ERRORS = (RedisError, OSError)
"""What Redis, or the way to it, may do to us at any time. Anything else is a mistake of ours."""

PING_SECONDS = 5.0
PONG_SECONDS = 10.0
"""Silence after a PING that means a lost connection. redis-py sends PINGs but never misses the PONG."""
SILENCE_SECONDS = 15.0
"""Silence after which the service is not ready."""
MAX_PENDING_BYTES = 8 * 1024 * 1024
"""Published but not yet offered: beyond it Redis is read no further, and keeps the rest in its own buffer."""
CONNECT_SECONDS = 5.0
BACKOFF_SECONDS = (0.1, 5.0)


class Subscriber:
    """Keeps one connection to Redis subscribed to the channel, and gives the hub what arrives."""

    def __init__(
        self, settings: Settings, hub: Hub, *, ping_seconds: float = PING_SECONDS,
        pong_seconds: float = PONG_SECONDS,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._hub = hub
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._subscribed = False
        self._problem = "Redis: not connected yet"
        self._ever_tried = False
        self._answered = asyncio.Event()
        self._last_answer = -math.inf
        self._report_at = -math.inf
        self._unreported = 0

    @property
    def problem(self) -> str | None:
        """Why no messages can arrive now, or None when all is well."""
        if not self._subscribed:
            return self._problem
        silence = trio.current_time() - self._last_answer
        if silence > SILENCE_SECONDS:
            return f"Redis at {self._settings.redis_address} has not answered for {silence:.0f} s"
        return None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, read, and on any of ERRORS begin again, until cancelled.

        `started()` is called after the first attempt, whatever its outcome: the service is up without
        Redis too. The whole runs inside one asyncio task, since each crossing between the two loops costs
        more than a message does.
        """
        async with trio_asyncio.open_loop():
            await trio_asyncio.aio_as_trio(self._keep_subscribed)(task_status)

    async def _keep_subscribed(self, task_status: trio.TaskStatus[None]) -> None:
        low, high = BACKOFF_SECONDS
        ceiling = low
        while True:
            try:
                async with connected(self._settings) as redis:
                    await self._subscribe(redis)
                    ceiling = low
                    self._start_once(task_status)
                    await self._read_and_ping(redis)
            except ERRORS as error:
                self._lost(error)
            except ExceptionGroup as group:
                # From the task group: the reader's error, the pinger's, or both.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError from group  # a task group lets the errors win
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

    async def _subscribe(self, redis: Connection) -> None:
        channel = self._settings.redis_channel
        async with answer_within(CONNECT_SECONDS):
            await redis.send_command("SUBSCRIBE", channel)
            await redis.read_response()
        self._last_answer = trio.current_time()
        self._subscribed = True
        log.info("subscribed to Redis", redis=self._settings.redis_address, channel=channel)
        if self._ever_tried:
            # Nobody knows what was published while we were away, so everybody is told.
            self._hub.counters.redis_reconnects += 1
            self._hub.announce_gap("redis_reconnected")

    def _lost(self, error: BaseException) -> None:
        """Note why, and say so if that is news: one line per change of state, not per try."""
        problem = f"Redis at {self._settings.redis_address}: {advice(error)}"
        if self._subscribed or problem != self._problem:
            lost = self._subscribed
            log.warning("lost Redis, trying again" if lost else "no Redis, trying again", problem=problem)
        self._subscribed = False
        self._problem = problem

    async def _read_and_ping(self, redis: Connection) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ping(redis))
            await self._read(redis)

    async def _ping(self, redis: Connection) -> None:
        task = asyncio.current_task()
        while task is not None and not task.cancelling():
            await asyncio.sleep(self._ping_seconds)
            self._answered.clear()
            await redis.send_command("PING", check_health=False)
            async with answer_within(self._pong_seconds):
                await self._answered.wait()

    async def _read(self, redis: Connection) -> None:
        # While the parser has buffered input this loop does not yield, so the flusher runs when all that
        # one read of the socket brought has been published.
        read, answered, hub = redis.read_response, self._answered, self._hub
        while True:
            response = await read(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            self._last_answer = trio.current_time()
            if response[0] == b"message":
                self._publish(response[2])
                if hub.pending_bytes > MAX_PENDING_BYTES:
                    await trio_asyncio.trio_as_aio(hub.wait_taken)()
            if not answered.is_set():
                answered.set()

    def _publish(self, payload: bytes) -> None:
        try:
            notification = messages.decode(payload, self._settings.max_message_bytes)
        except messages.MessageError as error:
            self._hub.counters.rejected += 1
            self._report_rejected(str(error), payload)
            return
        if not self._hub.publish(notification) and len(self._hub):
            log.debug("no connection for this user", users=notification.users, connected=self._hub.users[:10])

    def _report_rejected(self, reason: str, payload: bytes) -> None:
        now = trio.current_time()
        if now < self._report_at:
            self._unreported += 1
            return
        log.warning(
            "message skipped",
            reason=reason,
            payload=payload[:800].decode("utf-8", "backslashreplace")[:200],
            skipped_unlogged=self._unreported,
        )
        self._report_at = now + 1
        self._unreported = 0


# Classes, not generators: when trio-asyncio closes a loop inside of another one (plain `hypercorn`), it fails
# over asynchronous generators that the garbage collector has not seen yet.


class connected:  # noqa: N801  used as `async with connected(settings) as redis`
    """A connection of its own to Redis: authenticated, database selected. Raises one of ERRORS.

    asyncio only. The connection is closed on leaving, without waiting for the other side.
    """

    def __init__(self, settings: Settings) -> None:
        self._connection: Connection = _pool(settings).make_connection()  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Connection:
        try:
            async with answer_within(CONNECT_SECONDS):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self.__aexit__()
            raise
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.disconnect(nowait=True)


class answer_within:  # noqa: N801  used as `async with answer_within(5)`
    """asyncio only. Raises TimeoutError, which is one of ERRORS, with a text fit for a log line."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise TimeoutError(f"no answer for {self._seconds:g} s") from None


def _pool(settings: Settings) -> ConnectionPool:
    # RESP 2: the same pub/sub replies from every Redis and Valkey since 2.0.
    common: dict[str, Any] = {
        "protocol": 2,
        # Time limits are set around the calls. redis-py would use asyncio.wait_for, which in Python 3.11
        # swallows a cancellation that comes together with the result: the service then never stopped.
        "socket_connect_timeout": None,
        "socket_timeout": None,
        "retry": Retry(NoBackoff(), 0),  # the subscriber retries itself, and tells
    }
    if settings.redis_url is not None:
        return ConnectionPool.from_url(settings.redis_url.get_secret_value(), **common)
    password = settings.redis_password
    return ConnectionPool(
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_main_db,
        username=settings.redis_username,
        password=password.get_secret_value() if password else None,
        **common,
    )


def advice(error: BaseException) -> str:
    """An error from Redis as one line that names the setting to look at."""
    text = " ".join(str(error).split()) or type(error).__name__
    lower = text.lower()
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, AuthenticationError) or "noauth" in lower or "wrongpass" in lower:
        return f"{text} (REDIS_USERNAME, REDIS_PASSWORD)"
    if "noperm" in lower or "no permissions" in lower:
        return f"{text} (the ACL of REDIS_USERNAME must allow SUBSCRIBE on SSE_REDIS_CHANNEL)"
    if isinstance(error, ResponseError) and "db index" in lower:
        return f"{text} (REDIS_MAIN_DB)"
    if isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError) or "ssl" in lower:
        return f"{text} (REDIS_URL: rediss:// is TLS, redis:// is not)"
    return f"{text} (REDIS_HOST, REDIS_PORT or REDIS_URL)"
