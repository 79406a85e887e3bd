"""A link to Redis: a connection, by way of Sentinels if there are any. asyncio only."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from types import TracebackType
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from trio_sse.broker.errors import NoMasterError, of_sentinel, text_of
from trio_sse.settings import Settings
from trio_sse.settings.redis_url import RedisServer

Link = Connection
"""redis-py's connection to Redis. `Connection` alone is a browser's here."""

ERRORS = (RedisError, OSError)
"""What Redis or the network may raise at any time. Anything else is a bug."""

CONNECT_SECONDS = 5.0
SENTINEL_SECONDS = 1.0

# Classes, not generators: when trio-asyncio closes a loop inside of another one (plain `hypercorn`), it fails
# on asynchronous generators that are not collected yet.


class open_link:  # noqa: N801  used as `async with open_link(settings) as link`
    """Open a new link to Redis: authenticated, and with `database` in REDIS_MAIN_DB. Raises one of ERRORS.

    With Sentinels, each new link looks up the master. `at` is another node of the cluster, as the first one
    names it. Leaving closes the link, without waiting for Redis.
    """

    def __init__(
        self, settings: Settings, *, database: bool = False, at: tuple[str, int] | None = None
    ) -> None:
        self._settings = settings
        self._database = database
        self._at = at
        self._link: Link | None = None

    async def __aenter__(self) -> Link:
        settings = self._settings
        try:
            if settings.redis_sentinels:
                self._link = await _connect_to_master(settings)
            else:
                self._link = _new_link(_server(settings.redis_server, self._at))
                async with answer_within(CONNECT_SECONDS):
                    await self._link.connect()  # type: ignore[no-untyped-call]
            if self._database:
                async with answer_within(CONNECT_SECONDS):
                    await _select(self._link, settings)
        except BaseException:
            await self.__aexit__()
            raise
        return self._link

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            await self._link.disconnect(nowait=True)


def _server(server: RedisServer, at: tuple[str, int] | None) -> RedisServer:
    """The server, or the cluster's node `at`. If `at` has no host, it is that of `server`."""
    if at is None:
        return server
    return replace(server, path=None, host=at[0] or server.host, port=at[1])


async def _select(link: Link, settings: Settings) -> None:
    """Select the database, for links that need one. A channel has none, and clusters and many hosted Redis
    have only number 0."""
    database = settings.redis_database
    if database == 0:
        return
    try:
        await call(link, "SELECT", database)
    except ResponseError as error:
        # Number 1 is only the default. A Redis without it has number 0 alone.
        if settings.redis_database_is_chosen or type(error) is not ResponseError:
            raise
    else:
        link.db = database


async def call(link: Link, *command: str | int | bytes) -> Any:
    """Send a command and return its answer, as bytes; without a command, the next answer. Raises one of
    ERRORS."""
    if command:
        await link.send_command(*command)
    return await link.read_response(disable_decoding=True)


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


async def _connect_to_master(settings: Settings) -> Link:
    """Try one Sentinel after the other, until one names a server whose ROLE is master.

    redis-py's `Sentinel` tries the next one only if one does not answer. It would accept an old master, which
    is gone or a replica by now, from a Sentinel that still names it.
    """
    told, tried = [], set()
    refused: RedisError | None = None
    for sentinel in settings.sentinel_servers:
        try:
            address = await _ask_sentinel(sentinel, settings.redis_sentinel_master)
        except ERRORS as error:
            told.append(f"{sentinel}: {of_sentinel(error)}")
            continue
        if address is None:
            told.append(f"{sentinel} knows no master {settings.redis_sentinel_master!r}")
            continue
        if address in tried:
            continue
        tried.add(address)
        master = replace(settings.redis_server, host=address[0], port=address[1])
        link = _new_link(master)
        try:
            async with answer_within(CONNECT_SECONDS):
                await link.connect()  # type: ignore[no-untyped-call]
                if (await call(link, "ROLE"))[0] == b"master":
                    return link
            told.append(f"{master} is no master any more, though {sentinel} says so")
        except ERRORS as error:
            if isinstance(error, ResponseError | AuthenticationError):
                refused = error
            told.append(f"{master}, which {sentinel} names: {text_of(error)}")
        except BaseException:
            await link.disconnect(nowait=True)
            raise
        await link.disconnect(nowait=True)
    if refused is not None:
        raise refused
    raise NoMasterError("; ".join(told) + " (REDIS_SENTINELS, REDIS_SENTINEL_MASTER)")


async def _ask_sentinel(sentinel: RedisServer, name: str) -> tuple[str, int] | None:
    """The master's address, as this Sentinel has it. None if it knows no master of this name."""
    link = _new_link(sentinel)
    try:
        async with answer_within(SENTINEL_SECONDS):
            await link.connect()  # type: ignore[no-untyped-call]
            found = await call(link, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    finally:
        await link.disconnect(nowait=True)
    return None if found is None else (found[0].decode(), int(found[1]))


async def replicates(link: Link) -> str | None:
    """The master's address if this server is a replica, where a published message reaches only its own
    subscribers. None for a master, in a cluster, where a message reaches all nodes, and if Redis does not
    say: ROLE may be forbidden, and hosted services and proxies may not have it."""
    try:
        role = await call(link, "ROLE")
        if role[0] not in (b"slave", b"replica"):
            return None
        with contextlib.suppress(ResponseError):
            if b"cluster_enabled:1" in await call(link, "INFO", "cluster"):
                return None
    except ResponseError:
        return None
    return f"{role[1].decode()}:{role[2]}"


# RESP 2: the same replies from every Redis and Valkey since 2.0.
_COMMON: dict[str, Any] = {
    "protocol": 2,
    # Time limits are set around the calls. redis-py would use asyncio.wait_for, which in Python 3.11 loses a
    # cancellation that comes together with the result: the service would not stop.
    "socket_connect_timeout": None,
    "socket_timeout": None,
    "retry": Retry(NoBackoff(), 0),  # the subscriber retries, and logs it
    # No CLIENT SETINFO: redis-py drops its errors, and a Redis in protected mode says why it refuses only in
    # its answer to the first command.
    "driver_info": None,
}


def _new_link(server: RedisServer) -> Link:
    common = {
        "username": server.username,
        "password": server.password,
        "client_name": server.client_name,
        **_COMMON,
    }
    if server.path is not None:
        unix: Link = UnixDomainSocketConnection(path=server.path, **common)  # type: ignore[assignment]
        return unix
    if server.tls is None:
        return Connection(host=server.host, port=server.port, **common)
    return SSLConnection(host=server.host, port=server.port, **server.tls, **common)
