"""The newest message of each key, for streams that begin with a snapshot. Bounded."""

from __future__ import annotations

import math
from collections import OrderedDict

from trio_sse.delivery.marks import Part
from trio_sse.delivery.targets import Followed, Target, each

_ENTRY_BYTES = 400
"""Bytes that a key costs beside its frame and its text."""

_Key = tuple[Target | None, str]

_NOTHING = frozenset[Target]()


class Snapshot:
    """At most `most` keys, and `max_bytes` in all. Those that were not renewed for longest go first."""

    def __init__(self, most: int, max_bytes: int) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._bytes = 0
        self._newest: OrderedDict[_Key, tuple[Part, tuple[Target, ...]]] = OrderedDict()
        self._by_target: dict[Target | None, set[str]] = {}

    def __len__(self) -> int:
        return len(self._newest)

    def put(
        self,
        targets: tuple[Target, ...] | None,
        key: str,
        part: Part | None,
        elsewhere: tuple[Target, ...] = (),
    ) -> None:
        """The newest message of `key` for each of `targets` (None: for everybody). None: forget the key.
        `elsewhere` is that of the notification."""
        for target in (None,) if targets is None else targets:
            self._remove((target, key))
            if part is not None:
                self._newest[target, key] = part, elsewhere
                self._by_target.setdefault(target, set()).add(key)
                self._bytes += _size(key, part)
        while len(self._newest) > self._most or self._bytes > self._max_bytes:
            self._remove(next(iter(self._newest)))

    def frames(
        self,
        follows: Followed,
        now: float,
        skips: frozenset[Target] = _NOTHING,
        *,
        until: float = math.inf,
    ) -> list[bytes]:
        """The newest of each key that is for those who follow this, oldest first, without what came after the
        sequence `until`. `now` is on the hub's clock. `skips` is that of their connection."""
        found: dict[int, bytes] = {}
        for target in (*each(follows), None):
            for key in self._by_target.get(target, ()):
                (sequence, frame, expires), elsewhere = self._newest[target, key]
                if expires > now and sequence <= until and skips.isdisjoint(elsewhere):
                    found[sequence] = frame
        return [found[sequence] for sequence in sorted(found)]

    def forget(self, target: Target) -> None:
        """Forget all keys of a target: newer messages of it may not be known."""
        for key in list(self._by_target.get(target, ())):
            self._remove((target, key))

    def clear(self) -> None:
        """Forget everything."""
        self._newest.clear()
        self._by_target.clear()
        self._bytes = 0

    def _remove(self, place: _Key) -> None:
        found = self._newest.pop(place, None)
        if found is None:
            return
        target, key = place
        self._bytes -= _size(key, found[0])
        keys = self._by_target[target]
        keys.remove(key)
        if not keys:
            del self._by_target[target]


def _size(key: str, part: Part) -> int:
    return len(key) + len(part[1]) + _ENTRY_BYTES
