"""`trio-sse check`: what works, what does not, and which setting to change."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import secrets
import socket
import ssl
from urllib.parse import urlsplit

import click
import msgspec

from trio_sse import embedded, logs
from trio_sse.listening import ListenError, Url, is_handed, listening, place, urls
from trio_sse.redis_link import ERRORS, advice, answer_within, call, connected
from trio_sse.settings import Settings


def run(settings: Settings) -> int:
    """Print one line per check. Returns the exit code: 1 if anything is to be mended."""
    click.echo("ok    settings")
    for notice in settings.notices:
        _say(True, f"settings: {notice}")
    if settings.auth == "none":
        _say(True, "streams: open to everybody, for any user_id (SSE_AUTH=jwt asks for a token)")
    else:
        _say(True, "streams: for the user that a token names (SSE_AUTH=jwt)")
    results = [_port(settings), _redis(settings)]
    return 0 if all(results) else 1


def _port(settings: Settings) -> bool:
    where = place(settings) if settings.host.startswith("unix:") else f"port {place(settings)}"
    if is_handed(settings):
        return _say(True, f"{place(settings)}: whoever starts the service hands it over, so it is not tried")
    try:
        with listening(settings):
            pass
    except ListenError as error:
        running = next(filter(None, map(_readiness, urls(settings))), None)
        if running is None:
            return _say(False, f"{where}: {error}")
        return _say(running == "ready", f"{where}: a trio_sse is running there and says: {running}")
    return _say(True, f"{where} is free")


def _readiness(there: Url) -> str | None:
    """What a trio_sse that listens there already says of itself, or None if there is none."""
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
        asyncio.run(_probe(settings))
    except ERRORS as error:
        return _say(False, f"Redis {where}: {advice(error)}")
    return True


async def _probe(settings: Settings) -> None:
    where, channel = settings.redis_address, settings.redis_channel
    async with answer_within(10), connected(settings) as listening, connected(settings) as speaking:
        _say(True, f"Redis {where}: connected")
        await listening.send_command("SUBSCRIBE", channel)
        await listening.read_response()
        _say(True, f"Redis {where}: may subscribe to {channel} (SSE_REDIS_CHANNEL)")
        probe = f"{channel}:check:{secrets.token_hex(4)}"  # not the channel itself: clients would see it
        await listening.send_command("SUBSCRIBE", probe)
        await listening.read_response()
        await speaking.send_command("PUBLISH", probe, "probe")
        await speaking.read_response()
        while (await listening.read_response())[1] != probe.encode():
            pass
        _say(True, f"Redis {where}: a message published to {probe} came back")
        await speaking.send_command("PUBSUB", "NUMSUB", channel)
        others = (await speaking.read_response())[1] - 1
        _say(True, f"Redis {where}: {others} other subscriber(s) of {channel}")
        if settings.redis_stream is not None:
            # Unlike a channel, a stream lives in a database, and redis-cli writes to 0 unless told otherwise.
            place = f"stream {settings.redis_stream} (SSE_REDIS_STREAM) in database {settings.redis_main_db}"
            entries = await call(speaking, "XLEN", settings.redis_stream)
            await call(speaking, "XREAD", "COUNT", 1, "STREAMS", settings.redis_stream, "0-0")
            _say(True, f"Redis {where}: {place} has {entries} entries")
            if not entries:
                _say(
                    True,
                    f"      back ends must add to it there: redis-cli -n {settings.redis_main_db} XADD …",
                )


def _say(good: bool, line: str) -> bool:
    click.echo(f"{'ok   ' if good else 'WRONG'} {logs.escaped(line)}")
    return good
