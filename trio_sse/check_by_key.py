"""The part of `trio-sse check` for SSE_REDIS_ROUTING=by-key."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator

from redis.exceptions import NoPermissionError, ResponseError

from trio_sse import redis_cli
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import SLOTS, Address, ClusterMap
from trio_sse.broker.errors import advice
from trio_sse.broker.link import ERRORS, Link, answer_within, call, open_link
from trio_sse.broker.topology import look
from trio_sse.delivery.targets import ALL
from trio_sse.settings import Settings

Said = tuple[bool, str]
"""Whether it is good, and the line."""


async def probe(settings: Settings) -> AsyncIterator[Said]:
    """What works and what does not, a line each. Raises one of link.ERRORS if nothing does."""
    channels = Channels(settings.redis_channel)
    if not settings.redis_cluster:
        async with answer_within(10), open_link(settings) as listening, open_link(settings) as speaking:
            async for line in _try_one(settings, channels, listening, speaking):
                yield line
        return
    ranges = (await look(settings)).ranges
    cluster = ClusterMap(channels.of)
    cluster.learn(ranges)
    slots = dict.fromkeys(cluster.masters, 0)
    for first, last, address in ranges:
        slots[address] += last - first + 1
    for address, count in slots.items():
        where = "{}:{}".format(*address)
        try:
            async with answer_within(10):
                everybody = cluster.masters[address] is cluster.shard_of(ALL)
                async for line in _try_node(settings, channels, address, count, everybody=everybody):
                    yield line
        except ERRORS as error:
            yield False, f"Redis {where}: it serves {count} slots: {advice(error, settings)}"
    if missing := SLOTS - sum(slots.values()):
        unserved = f"{missing} of {SLOTS} slots are served by no node: their channels reach nobody"
        yield False, f"Redis {settings.redis_address}: {unserved}"


async def _try_one(
    settings: Settings, channels: Channels, listening: Link, speaking: Link
) -> AsyncIterator[Said]:
    where = settings.redis_address
    yield True, f"Redis {where}: connected"
    if settings.redis_sentinels:
        yield True, f"Redis {where}: the master is {redis_cli.reached(settings, speaking)}"
    with contextlib.suppress(ResponseError):  # INFO may be forbidden
        if b"cluster_enabled:1" in await call(speaking, "INFO", "cluster"):
            node = "it is a node of a cluster, which carries each message to all nodes"
            yield True, f"Redis {where}: {node}; REDIS_CLUSTER instead of its address spreads them"
    async for line in _try_channel(where, channels, listening, speaking, sharded=False):
        yield line
    yield True, f"      to send a message: {_command(settings, speaking, 'PUBLISH')}"


async def _try_node(
    settings: Settings, channels: Channels, address: Address, count: int, *, everybody: bool
) -> AsyncIterator[Said]:
    """`everybody`: it serves the channel for all."""
    where = "{}:{}".format(*address)
    async with open_link(settings, at=address) as link:
        yield True, f"Redis {where}: connected; it serves {count} slots"
        if not everybody:
            return
        async with open_link(settings, at=address) as listening:
            async for line in _try_channel(where, channels, listening, link, sharded=True):
                yield line
        yield True, f"      to send a message: {_command(settings, link, 'SPUBLISH')}"


async def _try_channel(
    where: str, channels: Channels, listening: Link, speaking: Link, *, sharded: bool
) -> AsyncIterator[Said]:
    """Subscribe as the service does, and send a message to a channel of nobody."""
    letter, channel = "S" if sharded else "", channels.of(ALL).decode()
    await call(listening, f"{letter}SUBSCRIBE", channel)
    yield True, f"Redis {where}: may subscribe to {channel} (SSE_REDIS_CHANNEL)"
    # In a cluster it must be in the slot of the one that worked, by its hash tag.
    probe = f"{channel.removesuffix(':all')}:check:{{{channel}}}:{secrets.token_hex(4)}"
    try:
        await call(listening, f"{letter}SUBSCRIBE", probe)
        await call(speaking, f"{letter}PUBLISH", probe, "probe")
    except NoPermissionError as error:
        yield True, f"Redis {where}: no test message was sent: {error}"
        return
    while (await call(listening))[1] != probe.encode():
        pass
    yield True, f"Redis {where}: a message published to {probe} came back"


def sample(settings: Settings) -> tuple[str, str]:
    """A channel, and a message for it, to try out."""
    if settings.by_key:
        return f"{settings.redis_channel}:user:1", _compact({"message": "hello"})
    return settings.redis_channel, _compact({"user_id": 1, "message": "hello"})


def _compact(message: dict[str, object]) -> str:
    return json.dumps(message, separators=(",", ":"))


def _command(settings: Settings, link: Link, verb: str) -> str:
    return redis_cli.command_over(settings, link, verb, *sample(settings))
