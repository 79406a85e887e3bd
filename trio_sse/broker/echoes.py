"""A message that comes by two masters of a cluster: by one that was frozen, and by the replica that has taken
its place. Pure."""

from __future__ import annotations

from typing import Protocol

from trio_sse.broker.cluster_map import Address

TICKS = 2
"""How many calls of `expire` a message is remembered for at least. It is for less than twice as many."""

MOST = 100_000
"""After so many messages the earlier ones are forgotten sooner."""


class Node(Protocol):
    """A master, while one link reads from it."""

    address: Address | None
    replicas: frozenset[Address]
    """Who would take its place."""


class Echoes:
    """Remembers for a moment which message came by which master.

    A master that wakes up carries out what it was sent while it was frozen, before it learns that its replica
    has taken over. What is published so goes to its own subscribers, and over the bus of the cluster to those
    of the replica. Whoever moves from one to the other in between gets it twice.

    A message has no name, so one that is published again with the same text, in just that moment, looks the
    same. Each counts once, and slots that move to a node that is no replica are none of this.
    """

    def __init__(self) -> None:
        self._recent: dict[int, tuple[Node, int]] = {}
        self._older: dict[int, tuple[Node, int]] = {}
        self._ticks = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def is_one(self, node: Node, channel: bytes, payload: bytes) -> bool:
        """Whether what came by `node` now had come by a master before whose replica it was. If not, it is
        remembered."""
        mark = hash((channel, payload))
        recent, older = self._recent.get(mark), self._older.get(mark)
        if older is not None and _is_from(older, node):
            self._older[mark] = older[0], older[1] - 1
            return True
        if recent is None or recent[0] is not node:
            if recent is not None and _is_from(recent, node):
                self._recent[mark] = recent[0], recent[1] - 1
                return True
            if len(self._recent) >= MOST:
                self._forget()
            self._recent[mark] = node, 1
        else:
            self._recent[mark] = node, recent[1] + 1
        return False

    def expire(self) -> None:
        """To be called every second."""
        self._ticks += 1
        if self._ticks >= TICKS:
            self._forget()

    def _forget(self) -> None:
        self._recent, self._older, self._ticks = {}, self._recent, 0


def _is_from(seen: tuple[Node, int], node: Node) -> bool:
    """Whether this came by a master in whose place `node` is now, more often than by `node`."""
    came_by, count = seen
    return count > 0 and came_by is not node and node.address in came_by.replicas
