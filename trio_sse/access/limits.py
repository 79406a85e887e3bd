"""How many streams there may be: in all, per user, per address, and how quickly one address may open them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import trio

from trio_sse.settings import Settings

RETRY_SECONDS = 10.0
"""Refused clients come back spread over so many seconds."""

RESERVED_SECONDS = 10.0
"""How long a place is kept for a stream that was let in."""

_ROUNDING_SECONDS = 1e-6
_REMEMBERED = 100_000
"""Addresses whose rate is remembered. The one that opened no stream for longest is dropped first."""


class Overloaded(NamedTuple):
    """Why one more stream is too many, and when to try again."""

    detail: str
    status: int
    """HTTP status of the answer to a client that does not accept an event stream."""
    retry_seconds: float


Key = tuple[str, str]
"""Whose streams are counted: ("user", id) or ("address", address)."""


_DETAILS = {
    "total": "too many streams (SSE_MAX_CONNECTIONS)",
    "files": "hardly any file can be opened any more (LimitNOFILE, ulimit -n)",
    "user": "too many streams of this user (SSE_MAX_CONNECTIONS_PER_USER)",
    "address": "too many streams of this address (SSE_MAX_CONNECTIONS_PER_ADDRESS)",
    "rate": "too many new streams (SSE_CONNECTION_RATE_PER_ADDRESS)",
    "revoked": "it is not known which tokens are revoked (SSE_REVOKED_WITHOUT_REDIS)",
    "away": "the limits of all processes cannot be asked for (SSE_LIMITS_WITHOUT_REDIS)",
}


def overloaded_by(limit: str, wait: float = 0.0) -> Overloaded:
    """What is told about one of the limits `total`, `user`, `address`, and `rate`, which holds for `wait`
    seconds more; `files` if hardly any can be opened; `away` if what all processes count is not known,
    `revoked` if it is not known which tokens count."""
    retry = wait + 1 if limit == "rate" else RETRY_SECONDS
    return Overloaded(_DETAILS[limit], 429 if limit in ("user", "address", "rate") else 503, retry)


class Limits:
    """Counts the streams of this process. Synchronous. Every `begin` needs its `end`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = trio.current_time) -> None:
        self.changed: dict[Key, None] = {}
        """Counts that have changed since somebody took them out, if they are shared with other processes."""
        self._shared = settings.limits_shared
        self._open_without = settings.limits_without_redis == "open"
        self._reserved: deque[tuple[float, object]] = deque()
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
        self._expire()
        if len(self._counted) >= self._most:
            return overloaded_by("total")
        if user_id is not None and self._users.get(user_id, 0) >= self._most_per_user:
            return overloaded_by("user")
        if self._addresses.get(address, 0) >= self._most_per_address:
            return overloaded_by("address")
        if self._rate:
            wait = self._used_until.get(address, 0) - self._clock() - self._burst_seconds
            if wait > _ROUNDING_SECONDS:
                return overloaded_by("rate", wait)
        return None

    def excess_by(self, limit: str, wait: float) -> Overloaded | None:
        """As `excess`, by what all processes together say: `limit` is as in `overloaded_by`. "away" if they
        could not be asked: then the limits of this process hold, or nobody is let in."""
        if not limit or (limit == "away" and self._open_without):
            return None
        return overloaded_by(limit, wait)

    def begin(self, stream: object, user_id: str | None, address: str) -> None:
        """Count a stream, until its `end`."""
        self._count(stream, user_id, address)
        self._mark(user_id, address)

    def _mark(self, user_id: str | None, address: str) -> None:
        if self._shared:
            self.changed["address", address] = None
            if user_id is not None:
                self.changed["user", user_id] = None

    def _count(self, stream: object, user_id: str | None, address: str) -> None:
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
            self._mark(user_id, address)
            if user_id is not None:
                _take_one(self._users, user_id)
            _take_one(self._addresses, address)

    def reserve(self, user_id: str | None, address: str) -> object:
        """Count a stream that is about to open, RESERVED_SECONDS at most. Returns what `take_up` takes."""
        self._expire()
        reservation = object()
        self._count(reservation, user_id, address)
        self._reserved.append((self._clock() + RESERVED_SECONDS, reservation))
        return reservation

    def take_up(self, reservation: object, stream: object) -> bool:
        """Let `stream` have what was reserved, until its `end`. Returns whether it still is."""
        self._expire()
        if (counted := self._counted.pop(reservation, None)) is None:
            return False
        self._counted[stream] = counted
        return True

    def _expire(self) -> None:
        while self._reserved and self._reserved[0][0] <= self._clock():
            self.end(self._reserved.popleft()[1])

    def __len__(self) -> int:
        """Streams that are counted."""
        return len(self._counted)

    def count(self, key: Key) -> int:
        """Streams of a user, or of an address."""
        kind, name = key
        return (self._users if kind == "user" else self._addresses).get(name, 0)

    def keys(self) -> list[Key]:
        """All that have streams."""
        self._expire()
        return [*(("user", name) for name in self._users), *(("address", name) for name in self._addresses)]

    @property
    def _burst_seconds(self) -> float:
        """The streams that one second allows, and at least one, may come at once."""
        return max(1.0, self._rate) / self._rate - 1 / self._rate


def _take_one(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
