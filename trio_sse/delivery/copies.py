"""Messages that come by several channels, and are delivered once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

SECONDS = 60.0
"""How much later than the first a copy may come: from another shard, which was away meanwhile."""

MOST = 100_000


class Copies:
    """Knows which messages have come, by what their copies have in common. Bounded by time and number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Not a dict: there, to find the oldest takes the longer the more were before it.
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def is_new(self, copy: bytes) -> bool:
        """Whether no copy of this message has come. From now on, one has."""
        seen, now = self._seen, self._clock()
        while seen:
            oldest = next(iter(seen))
            if seen[oldest] > now and len(seen) < MOST:
                break
            del seen[oldest]
        if copy in seen:
            return False
        seen[copy] = now + SECONDS
        return True
