"""A cluster is asked who serves what. asyncio only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from redis.exceptions import ClusterDownError

from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import Address, ClusterMap, Range, ranges_of, replicas_of
from trio_sse.broker.errors import is_refusal
from trio_sse.broker.link import CONNECT_SECONDS, ERRORS, answer_within, call, open_link
from trio_sse.settings import Settings


class View(NamedTuple):
    """What a node says of its cluster."""

    ranges: list[Range]
    works: bool
    """Whether all slots are served, and the node is among the majority."""
    replicas: Mapping[Address, frozenset[Address]]
    """Who would take the place of each master."""


async def look(settings: Settings, first: Iterable[Address] = (), last: Iterable[Address] = ()) -> View:
    """Ask one node after the other, those of REDIS_CLUSTER between `first` and `last`, until one is in a
    cluster that works. If none is, the view of the one that knows of most slots. Raises one of link.ERRORS if
    none says that any slot is served."""
    seeds = [(server.host, server.port) for server in settings.cluster_servers]
    lost: BaseException | None = None
    doubtful = View([], works=False, replicas={})
    for address in dict.fromkeys([*first, *seeds, *last]):
        try:
            async with open_link(settings, at=address) as link, answer_within(CONNECT_SECONDS):
                works = b"cluster_state:ok" in await call(link, "CLUSTER", "INFO")
                slots = await call(link, "CLUSTER", "SLOTS")
        except ERRORS as error:
            # A refusal says more than that another node is away.
            if lost is None or (is_refusal(error) and not is_refusal(lost)):
                lost = error
            continue
        view = View(ranges_of(slots, address), works, replicas_of(slots, address))
        if works and view.ranges:
            return view
        doubtful = max(doubtful, view, key=_slots)
    if not doubtful.ranges:
        raise lost or ClusterDownError("no node serves any slot", status_code="CLUSTERDOWN")
    return doubtful._replace(works=False)


async def map_of(settings: Settings) -> ClusterMap:
    """The map of the cluster, for channels by key. Raises as `look`."""
    cluster = ClusterMap(Channels(settings.redis_channel).of)
    cluster.learn((await look(settings)).ranges)
    return cluster


def _slots(view: View) -> int:
    """How many slots it knows of."""
    return sum(last + 1 - first for first, last, _ in view.ranges)
