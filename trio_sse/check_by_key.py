"""The part of `trio-sse check` for SSE_REDIS_ROUTING=by-key."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator

from redis.exceptions import NoPermissionError

from trio_sse import redis_cli
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.link import Link, answer_within, call, open_link
from trio_sse.broker.topology import look
from trio_sse.delivery.targets import ALL
from trio_sse.settings import Settings


async def probe(settings: Settings) -> AsyncIterator[str]:
    """What works, a line each. Raises one of link.ERRORS for what does not."""
    channels = Channels(settings.redis_channel)
    if not settings.redis_cluster:
        async with answer_within(10), open_link(settings) as listening, open_link(settings) as speaking:
            yield f"Redis {settings.redis_address}: connected"
            async for line in _try(settings.redis_address, channels, "", listening, speaking):
                yield line
            yield f"      to send a message: {_command(settings, speaking, 'PUBLISH')}"
        return
    ranges, _ = await look(settings)
    cluster = ClusterMap(channels.of)
    cluster.learn(ranges)
    slots = dict.fromkeys(cluster.masters, 0)
    for first, last, address in ranges:
        slots[address] += last - first + 1
    for address, count in slots.items():
        async with answer_within(10), open_link(settings, at=address) as link:
            yield f"Redis {address[0]}:{address[1]}: connected; it serves {count} slots"
            if cluster.masters[address] is not cluster.shard_of(ALL):
                continue
            async with open_link(settings, at=address) as listening:
                async for line in _try(f"{address[0]}:{address[1]}", channels, "S", listening, link):
                    yield line
            yield f"      to send a message: {_command(settings, link, 'SPUBLISH')}"
            yield "      (with -c behind redis-cli: at the node that serves it)"
    if missing := 16384 - sum(slots.values()):
        yield f"note: {missing} slots are served by no node"


async def _try(
    where: str, channels: Channels, sharded: str, listening: Link, speaking: Link
) -> AsyncIterator[str]:
    """Subscribe as the service does, and send a message to a channel of nobody."""
    channel = channels.of(ALL).decode()
    await call(listening, f"{sharded}SUBSCRIBE", channel)
    yield f"Redis {where}: may subscribe to {channel} (SSE_REDIS_CHANNEL)"
    # In the same slot as the one that worked.
    probe = (
        f"{channel}:check:{secrets.token_hex(4)}"
        if not sharded
        else f"{{{channel}}}:check:{secrets.token_hex(4)}"
    )
    try:
        await call(listening, f"{sharded}SUBSCRIBE", probe)
        await call(speaking, f"{sharded}PUBLISH", probe, "probe")
    except NoPermissionError:
        yield f"Redis {where}: no test message was sent: the ACL allows no other channel, as it should"
        return
    while (await call(listening))[1] != probe.encode():
        pass
    yield f"Redis {where}: a message published to {probe} came back"


def sample(settings: Settings) -> tuple[str, str]:
    """A channel, and a message for it, to try out."""
    if settings.by_key:
        return f"{settings.redis_channel}:user:1", _compact({"message": "hello"})
    return settings.redis_channel, _compact({"user_id": 1, "message": "hello"})


def _compact(message: dict[str, object]) -> str:
    return json.dumps(message, separators=(",", ":"))


def _command(settings: Settings, link: Link, verb: str) -> str:
    return redis_cli.command_over(settings, link, verb, *sample(settings))
