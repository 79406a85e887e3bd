"""The part of `trio-sse check` for SSE_STREAM_PARTITIONS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from redis.exceptions import NoPermissionError, ResponseError

from trio_sse import redis_cli
from trio_sse.broker.cluster_map import Address
from trio_sse.broker.errors import ReplicaError, advice
from trio_sse.broker.link import ERRORS, Link, answer_within, call, open_link, replicates
from trio_sse.broker.log import read_info
from trio_sse.broker.topology import map_of
from trio_sse.check_by_key import Said
from trio_sse.delivery.partitions import Layout
from trio_sse.settings import Settings


async def probe(settings: Settings) -> AsyncIterator[Said]:
    """What works and what does not, a line each. Raises one of link.ERRORS if nothing does."""
    layouts = [Layout(*layout) for layout in settings.stream_layouts]
    keys = [layout.name(partition.number) for layout in layouts for partition in layout.all]
    if not settings.redis_cluster:
        async with answer_within(10), open_link(settings, database=True) as link:
            where = settings.redis_address
            yield True, f"Redis {where}: connected"
            with contextlib.suppress(ResponseError):  # INFO may be forbidden
                if b"cluster_enabled:1" in await call(link, "INFO", "cluster"):
                    yield False, f"Redis {where}: it is a node of a cluster: name it in REDIS_CLUSTER instead"
                    return
            if settings.redis_sentinels:
                yield True, f"Redis {where}: the master is {redis_cli.reached(settings, link)}"
            master = await replicates(link)
            if master is not None:
                problem = advice(ReplicaError(master), settings)
                yield not settings.publish_token_list, f"Redis {where}: {problem}"
            async for line in _try(settings, where, keys, link):
                yield line
        return
    cluster = await map_of(settings)
    homes: dict[Address | None, list[str]] = {}
    for key in keys:
        homes.setdefault(cluster.address_of(key.encode()), []).append(key)
    for address, own in homes.items():
        if address is None:
            unserved = f"{_named(own)}: the slot is served by no node"
            yield False, f"Redis {settings.redis_address}: {unserved}"
            continue
        where = "{}:{}".format(*address)
        try:
            async with answer_within(10), open_link(settings, database=True, at=address) as link:
                yield True, f"Redis {where}: connected; it has {_named(own)}"
                async for line in _try(settings, where, own, link):
                    yield line
        except ERRORS as error:
            yield False, f"Redis {where}: it has {_named(own)}: {advice(error, settings)}"


async def _try(settings: Settings, where: str, keys: Sequence[str], link: Link) -> AsyncIterator[Said]:
    """Read the partitions here as the service does, and see whether they may be written to."""
    layout = Layout(*settings.stream_layouts[0])
    lengths = []
    for key in keys:
        info = await read_info(link, key)
        await call(link, "XREAD", "COUNT", 1, "STREAMS", key, "0-0")
        await call(link, "XREVRANGE", key, "+", "-", "COUNT", 1)
        lengths.append(info.length)
    empty = [key for key, length in zip(keys, lengths, strict=True) if not length]
    place = f"{len(keys)} partitions (SSE_STREAM_PARTITIONS) in database {link.db}"
    hint = f"; nothing in {_named(empty)}" if empty else ""
    yield True, f"Redis {where}: may read {place}: {sum(lengths)} entries{hint}"
    if settings.publish_token_list:
        try:
            await call(link, "XADD", keys[0], "0-0", "payload", "")  # an id that no entry may have
        except NoPermissionError as error:
            yield False, f"Redis {where}: POST /publish: {advice(error, settings)}"
        except ResponseError:
            yield True, f"Redis {where}: may add to them, as POST /publish does"
    async for line in _strays(settings, where, layout, link):
        yield line
    if (mine := layout.name(layout.of("1"))) in keys:
        message = sample(settings)[1]
        command = redis_cli.command_over(settings, link, "XADD", mine, "*", "payload", message)
        yield True, f"      to send a message: {command}"


async def _strays(settings: Settings, where: str, layout: Layout, link: Link) -> AsyncIterator[Said]:
    """Keys that back ends write to with other settings."""
    key, number = layout.key, layout.partitions
    with contextlib.suppress(ResponseError):  # another node's, or forbidden
        if (await read_info(link, layout.name(number))).length:
            more = f"{layout.name(number)} has entries, which nobody reads"
            yield (
                False,
                f"Redis {where}: {more}: back ends have another number than SSE_STREAM_PARTITIONS={number}",
            )
    with contextlib.suppress(ResponseError):
        if (key, 0) not in settings.stream_layouts[1:] and (length := (await read_info(link, key)).length):
            unread = f"{key} has {length} entries, which nobody reads: its partitions are read"
            yield True, f"Redis {where}: {unread}, and it too with SSE_REDIS_STREAM_BEFORE={key}"


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def sample(settings: Settings) -> tuple[str, str]:
    """A partition, and a message for it, to try out."""
    layout = Layout(*settings.stream_layouts[0])
    return layout.name(layout.of("1")), json.dumps({"user_id": 1, "message": "hello"}, separators=(",", ":"))
