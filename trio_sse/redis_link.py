"""A connection to Redis: where it is, how to log in, what its errors mean. asyncio only."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Any

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from trio_sse.settings import Settings

ERRORS = (RedisError, OSError)
"""What Redis, or the way to it, may do to us at any time. Anything else is a mistake of ours."""

CONNECT_SECONDS = 5.0
SENTINEL_SECONDS = 1.0

# Classes, not generators: when trio-asyncio closes a loop inside of another one (plain `hypercorn`), it fails
# over asynchronous generators that the garbage collector has not seen yet.


class connected:  # noqa: N801  used as `async with connected(settings) as redis`
    """A connection of its own to Redis: authenticated, database selected. Raises one of ERRORS.

    With Sentinels, they are asked each time where the master is. The connection is closed on leaving,
    without waiting for the other side.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        address = await _master(self._settings) if self._settings.redis_sentinels else None
        self._connection = _connection(self._settings, address)
        try:
            async with answer_within(CONNECT_SECONDS):
                await self._connection.connect()  # type: ignore[no-untyped-call]
                if address is not None:
                    await _check_master(self._connection, address)
        except BaseException:
            await self.__aexit__()
            raise
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


async def _check_master(redis: Connection, address: tuple[str, int]) -> None:
    if (await call(redis, "ROLE"))[0] != b"master":
        raise ConnectionError(f"{address[0]}:{address[1]} is no master any more")


async def call(redis: Connection, *command: str | int | bytes) -> Any:
    """One command and its answer, as bytes. Raises one of ERRORS."""
    await redis.send_command(*command)
    return await redis.read_response(disable_decoding=True)


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


async def _master(settings: Settings) -> tuple[str, int]:
    """Where the Sentinels say that the master is: the first that answers counts."""
    errors = []
    for address in settings.redis_sentinels:
        host, _, port = address.rpartition(":")
        password = settings.redis_sentinel_password
        sentinel = Connection(
            host=host.strip("[]"),
            port=int(port),
            password=password.get_secret_value() if password else None,
            **_COMMON,
        )
        try:
            async with answer_within(SENTINEL_SECONDS):
                await sentinel.connect()  # type: ignore[no-untyped-call]
                master = settings.redis_sentinel_master
                found = await call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)
            if found is not None:
                return found[0].decode(), int(found[1])
            errors.append(f"{address} knows no master {master!r}")
        except ERRORS as error:
            errors.append(f"{address}: {error}")
        finally:
            await sentinel.disconnect(nowait=True)
    raise ConnectionError("; ".join(errors) + " (REDIS_SENTINELS, REDIS_SENTINEL_MASTER)")


# RESP 2: the same replies from every Redis and Valkey since 2.0.
_COMMON: dict[str, Any] = {
    "protocol": 2,
    # Time limits are set around the calls. redis-py would use asyncio.wait_for, which in Python 3.11
    # swallows a cancellation that comes together with the result: the service then never stopped.
    "socket_connect_timeout": None,
    "socket_timeout": None,
    "retry": Retry(NoBackoff(), 0),  # the subscriber retries itself, and tells
}


def _connection(settings: Settings, master: tuple[str, int] | None) -> Connection:
    if settings.redis_url is not None and master is None:
        pool = ConnectionPool.from_url(settings.redis_url.get_secret_value(), **_COMMON)
    else:
        host, port = master or (settings.redis_host, settings.redis_port)
        password = settings.redis_password
        pool = ConnectionPool(
            host=host,
            port=port,
            db=settings.redis_main_db,
            username=settings.redis_username,
            password=password.get_secret_value() if password else None,
            **_COMMON,
        )
    connection: Connection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


def advice(error: BaseException) -> str:
    """An error from Redis as one line that names the setting to look at."""
    text = " ".join(str(error).split()) or type(error).__name__
    lower = text.lower()
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, AuthenticationError) or "noauth" in lower or "wrongpass" in lower:
        return f"{text} (REDIS_USERNAME, REDIS_PASSWORD)"
    if "noperm" in lower or "no permissions" in lower:
        return (
            f"{text} (the ACL of REDIS_USERNAME, for SSE_REDIS_CHANNEL, SSE_REDIS_STREAM and POST /publish: "
            "see docs/security.md)"
        )
    if "wrongtype" in lower:
        return f"{text} (SSE_REDIS_STREAM must name a stream, or nothing yet)"
    if "redis_" in lower:
        return text
    if isinstance(error, ResponseError) and "db index" in lower:
        return f"{text} (REDIS_MAIN_DB)"
    if isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError) or "ssl" in lower:
        return f"{text} (REDIS_URL: rediss:// is TLS, redis:// is not)"
    return f"{text} (REDIS_HOST, REDIS_PORT or REDIS_URL)"
