"""`trio-sse route`: from the shared channel, or a log, to the channels by key."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from functools import partial
from typing import Any

import click
from click.core import ParameterSource
from pydantic import SecretStr

from trio_sse import options
from trio_sse.broker.bridge import Bridge
from trio_sse.broker.channels import Channels
from trio_sse.commands.keyed import post_of
from trio_sse.logs import configure
from trio_sse.settings import Settings, env_name, model, redis_url
from trio_sse.settings.redis_url import RedisURLError, parse


@click.command()
@click.option(
    "--from",
    "source_url",
    metavar="URL",
    envvar="TRIO_SSE_FROM",
    help="Redis that back ends publish to, such as redis://10.0.0.1:6379; without it the one of the settings "
    "[TRIO_SSE_FROM]",
)
@click.option("--from-channel", metavar="NAME", help="channel to read [default: SSE_REDIS_CHANNEL]")
@click.option("--from-stream", metavar="KEY", help="Redis stream to read instead of a channel")
@click.option("--name", metavar="NAME", help="name among all that read that stream [default: the host's]")
@click.pass_context
@options.for_settings(
    lambda name: (
        (name.startswith(("redis_", "log_")) and name not in ("redis_stream_before", "redis_routing"))
        or name in ("stream_partitions", "stream_length", "max_message_bytes")
    )
)
def route(
    context: click.Context,
    source_url: str | None,
    from_channel: str | None,
    from_stream: str | None,
    name: str | None,
    **given: str | None,
) -> None:
    """Publish by key, or to partitions, what back ends publish to one channel for all, until Ctrl-C.

    For services with SSE_REDIS_ROUTING=by-key or SSE_STREAM_PARTITIONS, where back ends cannot name the
    channel, or the partition, themselves. The settings say where to publish: SSE_REDIS_CHANNEL is the
    beginning of the channels' names; with SSE_STREAM_PARTITIONS it is SSE_REDIS_STREAM; REDIS_CLUSTER names a
    cluster.

    Of a channel, one bridge is enough, and all streams get a gap when it begins: it does not know what it has
    missed. With --from-stream nothing is lost (the consumer group trio_sse). Several may share the work, each
    with a --name of its own, but then messages of one user may overtake each other. Exit code 0 after Ctrl-C
    or SIGTERM.
    """
    typed = context.get_parameter_source("source_url") is ParameterSource.COMMANDLINE
    if typed and redis_url.has_secret(source_url or ""):
        options.fail("--from with a password shows in the process list: set TRIO_SSE_FROM in the environment")
    settings = _settings(given)
    configure(settings)
    source = _source(settings, source_url, from_channel, from_stream)
    name = name or socket.gethostname()  # the same after a restart: it goes on with what it had taken
    asyncio.run(_until_stopped(Bridge(source, settings, partial(post_of, settings), name)))
    sys.exit(0)


def _settings(given: dict[str, str | None]) -> Settings:
    """Where to publish: by key unless the settings have partitions."""
    variable = env_name("stream_partitions")
    partitions = given["stream_partitions"] or model.found().values.get(variable, "0")
    if str(partitions).strip() in ("", "0"):
        return options.read({**given, "redis_routing": "by-key"})
    return options.read(given)


def _source(
    settings: Settings, source_url: str | None, from_channel: str | None, from_stream: str | None
) -> Settings:
    """The settings of the Redis to read from."""
    if from_channel is not None and from_stream is not None:
        raise click.UsageError("--from-channel and --from-stream: name one of them")
    if Channels(settings.redis_channel).target_of((from_channel or "").encode()) is not None:
        raise click.UsageError("--from-channel: it is a channel by key itself (SSE_REDIS_CHANNEL)")
    changes: dict[str, Any] = {
        "redis_routing": "shared",
        "redis_channel": from_channel or settings.redis_channel,
        "redis_stream": from_stream,
        "stream_partitions": 0,
        "redis_stream_before": None,
    }
    if source_url is not None:
        try:
            parse(source_url)
        except RedisURLError as error:
            raise click.UsageError(f"--from: {str(error) or 'not a Redis address'}") from None
        changes |= {"redis_url": SecretStr(source_url), "redis_sentinels": (), "redis_cluster": ()}
    return settings.model_copy(update=changes)


async def _until_stopped(bridge: Bridge) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(bridge.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, bridge.stop, task)
    try:
        await task
    except asyncio.CancelledError:
        lost = f", {bridge.lost} lost" if bridge.lost else ""
        click.echo(f"{bridge.published} published, {bridge.skipped} skipped{lost}", err=True)
