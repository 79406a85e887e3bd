"""Tokens that no longer count, though they have not expired. Synchronous, no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

MOST = 100_000
"""Revocations that are kept at a time."""


class Revocation(NamedTuple):
    """Which tokens no longer count: the one with this `jti`; else all that were issued before a time, of one
    user or of all."""

    jti: str | None
    user: str | None
    issued_before: float
    """In seconds since 1970. A token without `iat` may be as old, and counts as issued before."""

    def covers(self, user: str | None, jti: str | None, issued_at: float | None) -> bool:
        """Whether a token with these claims is among them."""
        if self.jti is not None:
            return jti == self.jti
        if self.user is not None and self.user != user:
            return False
        return issued_at is None or issued_at < self.issued_before


class Revocations:
    """All revocations that this process knows of, each until the tokens have expired by themselves."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.loaded = False
        """Whether it was ever told what Redis has."""
        self.away_since: float | None = None
        """Since when Redis may have more of them, on the clock. None: this is all."""
        self._clock = clock
        self._tokens: dict[str, float] = {}  # by `jti`, until when
        self._users: dict[str | None, dict[float, float]] = {}  # None: all; issued before, until when

    def __len__(self) -> int:
        return len(self._tokens) + sum(map(len, self._users.values()))

    def add(self, revocation: Revocation, until: float) -> None:
        """From now on these tokens do not count. Nobody asks for them after `until`, in seconds since
        1970."""
        if revocation.jti is not None:
            self._tokens[revocation.jti] = until
        else:
            times, before = self._users.setdefault(revocation.user, {}), revocation.issued_before
            for other, its_until in list(times.items()):
                if other <= before and its_until <= until:  # it says no more than this one
                    del times[other]
            times[before] = until

    def replace(self, all_of_them: Iterable[tuple[Revocation, float]]) -> bool:
        """Redis has these, each until a time, and no others. Returns whether that is news."""
        before = self._tokens, self._users
        self._tokens, self._users = {}, {}
        for revocation, until in all_of_them:
            self.add(revocation, until)
        self.loaded = True
        return before != (self._tokens, self._users)

    def all(self) -> Iterator[tuple[Revocation, float]]:
        """Each, and until when."""
        for jti, until in self._tokens.items():
            yield Revocation(jti, None, 0.0), until
        for user, times in self._users.items():
            for issued_before, until in times.items():
                yield Revocation(None, user, issued_before), until

    def covers(self, user: str | None, jti: str | None, issued_at: float | None) -> bool:
        """Whether a token with these claims is revoked. `issued_at` is its `iat`."""
        now = self._clock()
        if jti is not None and self._tokens.get(jti, 0) > now:
            return True
        for whose in (None, user) if user is not None else (None,):
            for issued_before, until in self._users.get(whose, _NONE).items():
                if until > now and (issued_at is None or issued_at < issued_before):
                    return True
        return False

    def known(self, patience: float) -> bool:
        """Whether these are all that there are, or were so many seconds ago."""
        if not self.loaded:
            return False
        return self.away_since is None or self._clock() - self.away_since <= patience


_NONE: dict[float, float] = {}
