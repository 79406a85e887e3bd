"""Which master of a cluster serves which slot (Redis Cluster specification). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import AskError

from trio_sse.delivery.interest import Shard
from trio_sse.delivery.targets import Target

SLOTS = 16384

Address = tuple[str, int]


class Range(NamedTuple):
    """Slots from `first` to `last`, and the master that serves them."""

    first: int
    last: int
    master: Address


class ClusterMap:
    """The shards of a cluster. What no master serves, as far as is known, belongs to a shard that no link
    serves."""

    def __init__(self, channel_of: Callable[[Target], bytes]) -> None:
        self._channel_of = channel_of
        self._nowhere = Shard()
        self._shards: list[Shard] = [self._nowhere] * SLOTS
        self._losers: set[Shard] = set()
        self.corrected: set[int] = set()
        """Slots that a master has corrected since somebody was asked last."""
        self.masters: dict[Address, Shard] = {}
        """The masters that serve slots."""

    def shard_of(self, target: Target) -> Shard:
        """The shard of a target's channel."""
        return self._shards[key_slot(self._channel_of(target))]

    def address_of(self, channel: bytes) -> Address | None:
        """The master that serves a channel, or a key. None if it is not known."""
        shard = self._shards[key_slot(channel)]
        return next((address for address, one in self.masters.items() if one is shard), None)

    def learn(self, ranges: Iterable[Range], *, in_doubt: bool = False) -> set[Shard]:
        """Take over what a node says. What it does not mention stays as it was if that is `in_doubt`. Returns
        the shards that have lost slots.

        What a master has corrected meanwhile stays until the next time: others may not know of it yet, and
        to follow them there and back would cost a `gap`.
        """
        before, self._shards = self._shards, [self._nowhere] * SLOTS
        old, self.masters = self.masters, {}
        if in_doubt:
            self._shards, self.masters = before[:], dict(old)
        for first, last, address in ranges:
            shard = self.masters.get(address) or old.get(address) or _new_shard()
            self.masters[address] = shard
            self._shards[first : last + 1] = [shard] * (last + 1 - first)
        for slot in self.corrected:
            for address, shard in old.items():
                if shard is before[slot] and self.masters.setdefault(address, shard) is shard:
                    self._shards[slot] = shard
        self.corrected.clear()
        pairs = zip(before, self._shards, strict=True)
        losers, self._losers = self._losers, set()
        losers |= {was for was, now in pairs if was is not now}
        for shard in losers:
            shard.settled = False
        return losers

    def settled(self, shard: Shard) -> None:
        """What `shard` had and another one serves has moved, if nothing was corrected meanwhile."""
        shard.settled = shard not in self._losers

    def correct(self, slot: int, address: Address) -> None:
        """Take over what a master says of a slot that it does not serve."""
        self.corrected.add(slot)
        self._losers.add(self._shards[slot])
        self._shards[slot].settled = False
        self._shards[slot] = self.masters.get(address) or _new_shard()
        self.masters[address] = self._shards[slot]


def _new_shard() -> Shard:
    shard = Shard()
    shard.settled = True  # it has nothing yet
    return shard


def ranges_of(answer: Any, asked: Address) -> list[Range]:
    """Read the answer to CLUSTER SLOTS."""
    return [
        Range(first, last, address_of((master[0] or b"").decode(), master[1], asked))
        for first, last, master, *_ in answer
    ]


def replicas_of(answer: Any, asked: Address) -> dict[Address, frozenset[Address]]:
    """Read from the same answer who would take the place of each master."""
    found: dict[Address, frozenset[Address]] = {}
    for _, _, *nodes in answer:
        master, *replicas = [address_of((node[0] or b"").decode(), node[1], asked) for node in nodes]
        found[master] = frozenset(replicas)
    return found


def address_of(host: str, port: int, asked: Address) -> Address:
    """The address of a node, as another one that was `asked` gives it: without a name that it knows
    (`cluster-preferred-endpoint-type`), at the host that was asked."""
    return host if host not in ("", "?") else asked[0], port


def redirected(error: AskError, asked: Address | None) -> Address:
    """The address that ASK or MOVED gives. Without a host if it has none, and the Redis of the settings was
    `asked`: see `open_link`."""
    return address_of(error.host, error.port, asked or ("", 0))
