"""`trio-sse check`: what works, what does not, and which setting to change."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import secrets
import socket
import ssl
from urllib.parse import urlsplit

import click
import msgspec
from redis.exceptions import NoPermissionError, ResponseError

from trio_sse import check_by_key, check_keys, check_partitions, embedded, redis_cli
from trio_sse.broker.errors import ReplicaError, advice
from trio_sse.broker.link import ERRORS, Link, answer_within, call, open_link, replicates
from trio_sse.broker.log import read_info
from trio_sse.logs import escaped
from trio_sse.server.listening import ListenError, Url, is_handed, listening, place, urls
from trio_sse.settings import Settings, contradictions

MESSAGE = '{"user_id":1,"message":"hello"}'


def run(settings: Settings) -> int:
    """Print one line per check. Returns the exit code: 1 if anything has to be changed."""
    click.echo("ok    settings")
    for notice in settings.notices:
        click.echo(f"note  {notice}")
    if settings.auth == "none":
        _say(True, "streams: open to everybody, for any user_id and topic (SSE_AUTH=jwt asks for a token)")
    else:
        _say(True, "streams: for the user that a token names (SSE_AUTH=jwt)")
    results = [_port(settings), _redis(settings)]
    if settings.traces_per_second:
        results.append(_collector())
    return 0 if all(results) else 1


def _port(settings: Settings) -> bool:
    where = place(settings) if settings.host.startswith("unix:") else f"port {place(settings)}"
    if is_handed(settings):
        return _say(True, f"{place(settings)}: only the service gets it, so it is not tested")
    try:
        with listening(settings):
            pass
    except ListenError as error:
        running = next(filter(None, map(_readiness, urls(settings))), None)
        if running is None:
            return _say(False, f"{where}: {error}")
        return _say(running == "ready", f"{where}: a trio_sse is running there and says: {running}")
    return _say(True, f"{where} is free")


def _collector() -> bool:
    from trio_sse.tracing.collector import configured  # with an HTTP client

    there = configured(os.environ)
    problem = there.problem()
    said = "takes traces" if problem is None else f"{problem} (OTEL_EXPORTER_OTLP_ENDPOINT)"
    return _say(problem is None, f"collector {there.address}: {said}")


def _readiness(there: Url) -> str | None:
    """The readiness that a trio_sse at this address reports, or None if none answers."""
    try:
        with contextlib.closing(_connection(there)) as connection:
            connection.request("GET", "/readyz", headers={"Connection": "close"})
            body = connection.getresponse().read(10_000)
    except (OSError, UnicodeError, http.client.HTTPException):
        return None
    try:
        said = msgspec.json.decode(body)
        return str(said["detail"] if said["status"] == 503 else said["status"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return None


def _connection(there: Url) -> http.client.HTTPConnection:
    parts = urlsplit(there.url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Its certificate is for another name than 127.0.0.1.
        anybody = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, parts.port, timeout=3, context=anybody)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=3)
    if there.unix is not None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(3)
        try:
            sock.connect(there.unix)
            if isinstance(connection, http.client.HTTPSConnection):
                sock = anybody.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        connection.sock = sock
    return connection


def _redis(settings: Settings) -> bool:
    where = settings.redis_address
    if not settings.redis_is_configured and not embedded.is_answering(settings.redis_port):
        return _say(
            True, f"Redis {where}: none configured, none running; `trio-sse` will start an embedded Valkey"
        )
    try:
        return asyncio.run(_probe(settings))
    except ERRORS as error:
        return _say(False, f"Redis {where}: {advice(error, settings)}")


async def _probe(settings: Settings) -> bool:
    messages = await _probe_messages(settings)
    return all([messages, *[_say(*said) async for said in check_keys.probe(settings)]])


async def _probe_messages(settings: Settings) -> bool:
    if settings.partitioned:
        return all([_say(*said) async for said in check_partitions.probe(settings)])
    if settings.by_key:
        return all([_say(*said) async for said in check_by_key.probe(settings)])
    where, channel = settings.redis_address, settings.redis_channel
    in_database = contradictions.uses_database(settings)
    async with (
        answer_within(10),
        open_link(settings) as listening,
        open_link(settings, database=in_database) as speaking,
    ):
        _say(True, f"Redis {where}: connected")
        if settings.redis_sentinels:
            _say(True, f"Redis {where}: the master is {redis_cli.reached(settings, speaking)}")
        good = _replica(settings, await replicates(speaking))
        await call(listening, "SUBSCRIBE", channel)
        _say(True, f"Redis {where}: may subscribe to {channel} (SSE_REDIS_CHANNEL)")
        await _try_channel(settings, listening, speaking)
        await _count_others(settings, speaking)
        command = redis_cli.command_over(settings, speaking, "PUBLISH", channel, MESSAGE)
        _say(True, f"      to send a message: {command}")
        if settings.redis_stream is not None:
            await _look_at_stream(settings, settings.redis_stream, speaking)
        elif in_database:
            _say(True, f"Redis {where}: Idempotency-Keys are kept in database {speaking.db}")
    return good


def _replica(settings: Settings, master: str | None) -> bool:
    if master is None:
        return True
    where = settings.redis_address
    _say(True, f"Redis {where}: it is a replica of {master}: messages published to it stay there")
    if not settings.publish_token_list:
        return True
    return _say(False, f"Redis {where}: {advice(ReplicaError(master), settings)}; POST /publish is refused")


async def _try_channel(settings: Settings, listening: Link, speaking: Link) -> None:
    where = settings.redis_address
    # Not the channel itself: clients would see it.
    probe = f"{settings.redis_channel}:check:{secrets.token_hex(4)}"
    try:
        await call(listening, "SUBSCRIBE", probe)
        await call(speaking, "PUBLISH", probe, "probe")
    except NoPermissionError:
        _say(True, f"Redis {where}: no test message was sent: the ACL allows no other channel, as it should")
        return
    while (await call(listening))[1] != probe.encode():
        pass
    _say(True, f"Redis {where}: a message published to {probe} came back")


async def _count_others(settings: Settings, speaking: Link) -> None:
    with contextlib.suppress(ResponseError):  # the service itself does not need this permission
        others = (await call(speaking, "PUBSUB", "NUMSUB", settings.redis_channel))[1] - 1
        _say(
            True,
            f"Redis {settings.redis_address}: {others} other subscriber(s) of {settings.redis_channel}",
        )


async def _look_at_stream(settings: Settings, stream: str, speaking: Link) -> None:
    # The log, unlike a channel, belongs to one database, and redis-cli writes to database 0 by default.
    where = settings.redis_address
    info = await read_info(speaking, stream)
    await call(speaking, "XREAD", "COUNT", 1, "STREAMS", stream, "0-0")
    place = f"stream {stream} (SSE_REDIS_STREAM) in database {speaking.db}"
    _say(True, f"Redis {where}: {place} has {info.length} entries")
    if not info.length:
        command = redis_cli.command_over(settings, speaking, "XADD", stream, "*", "payload", MESSAGE)
        _say(True, f"      back ends must add to it there: {command}")


def _say(good: bool, line: str) -> bool:
    click.echo(f"{'ok   ' if good else 'WRONG'} {escaped(line)}")
    return good
