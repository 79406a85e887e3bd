"""How many streams there may be: in all, per user, per address, and how quickly one address may open them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import trio

from trio_sse.settings import Settings

RETRY_SECONDS = 10.0
"""Refused clients come back spread over so many seconds."""

_ROUNDING_SECONDS = 1e-6
_REMEMBERED = 100_000
"""Addresses whose rate is remembered. The one that opened no stream for longest is dropped first."""


class Overloaded(NamedTuple):
    """Why one more stream is too many, and when to try again."""

    detail: str
    status: int
    """HTTP status of the answer to a client that does not accept an event stream."""
    retry_seconds: float


class Limits:
    """Counts the streams of this process. Synchronous. Every `begin` needs its `end`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = trio.current_time) -> None:
        self._most = settings.max_connections or math.inf
        self._most_per_user = settings.max_connections_per_user or math.inf
        self._most_per_address = settings.max_connections_per_address or math.inf
        self._rate = settings.connection_rate_per_address
        self.any = min(self._most, self._most_per_user, self._most_per_address) < math.inf or self._rate > 0
        """Whether there is any limit."""
        self._clock = clock
        self._counted: dict[object, tuple[str | None, str]] = {}
        self._users: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        # For each address, the time until which its streams have used up its rate (the generic cell rate
        # algorithm: a token bucket in one number).
        self._used_until: OrderedDict[str, float] = OrderedDict()

    def excess(self, user_id: str | None, address: str) -> Overloaded | None:
        """Why one more stream would be too many, or None. Counts nothing. A stream of topics alone has no
        user."""
        if len(self._counted) >= self._most:
            return Overloaded("too many streams (SSE_MAX_CONNECTIONS)", 503, RETRY_SECONDS)
        if user_id is not None and self._users.get(user_id, 0) >= self._most_per_user:
            detail = "too many streams of this user (SSE_MAX_CONNECTIONS_PER_USER)"
            return Overloaded(detail, 429, RETRY_SECONDS)
        if self._addresses.get(address, 0) >= self._most_per_address:
            detail = "too many streams of this address (SSE_MAX_CONNECTIONS_PER_ADDRESS)"
            return Overloaded(detail, 429, RETRY_SECONDS)
        if self._rate:
            wait = self._used_until.get(address, 0) - self._clock() - self._burst_seconds
            if wait > _ROUNDING_SECONDS:
                return Overloaded("too many new streams (SSE_CONNECTION_RATE_PER_ADDRESS)", 429, wait + 1)
        return None

    def begin(self, stream: object, user_id: str | None, address: str) -> None:
        """Count a stream, until its `end`."""
        self._counted[stream] = user_id, address
        if user_id is not None:
            self._users[user_id] = self._users.get(user_id, 0) + 1
        self._addresses[address] = self._addresses.get(address, 0) + 1
        if self._rate:
            used_until = max(self._used_until.pop(address, 0), self._clock())
            self._used_until[address] = used_until + 1 / self._rate
            if len(self._used_until) > _REMEMBERED:
                self._used_until.popitem(last=False)

    def end(self, stream: object) -> None:
        """A stream has ended. Harmless if it was not counted."""
        if (counted := self._counted.pop(stream, None)) is not None:
            user_id, address = counted
            if user_id is not None:
                _take_one(self._users, user_id)
            _take_one(self._addresses, address)

    @property
    def _burst_seconds(self) -> float:
        """The streams that one second allows, and at least one, may come at once."""
        return max(1.0, self._rate) / self._rate - 1 / self._rate


def _take_one(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
