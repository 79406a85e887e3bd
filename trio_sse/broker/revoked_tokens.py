"""Revoked tokens in Redis, for processes that start later, or were away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from trio_sse.broker.control import Control

RELOAD_BEATS = 5
"""A process reads all of them each so many beats of the control channel, in case that it missed a command."""


class Revoked(msgspec.Struct, frozen=True, array_like=True):
    """A revocation as Redis has it."""

    jti: str | None
    user: str | None
    issued_before: float


class RevokedTokens:
    """A sorted set of revocations, by the time at which the last of the tokens has expired. `loaded` gets all
    of them, each with its time, when they were read."""

    def __init__(self, control: Control, loaded: Callable[[list[tuple[Revoked, float]]], None]) -> None:
        self._control = control
        self._loaded = loaded
        self._key = f"{control.keys}revoked".encode()
        self._beats = 0

    async def add(self, revoked: Revoked, seconds: float, most: int) -> float | None:
        """Keep it for so many seconds. Returns until when; None if there are as many as `most` already. In
        Trio. Raises one of link.ERRORS."""
        now = self._control.now()
        until = now + seconds
        member = msgspec.json.encode(revoked)
        _, count, known = await self._control.call(
            ("ZREMRANGEBYSCORE", self._key, "-inf", f"({now:.3f}"),
            ("ZCARD", self._key),
            ("ZSCORE", self._key, member),
        )
        if count >= most and known is None:
            return None
        if known is not None and float(known) >= until:
            return float(known)
        await self._control.call(("ZADD", self._key, f"{until:.3f}", member))
        return until

    async def beat(self) -> None:
        """Read them if it is time to. In asyncio. Raises one of link.ERRORS."""
        if self._beats % RELOAD_BEATS == 0:
            (found,) = await self._control.call_here(
                ("ZRANGEBYSCORE", self._key, f"{self._control.now():.3f}", "+inf", "WITHSCORES")
            )
            self._loaded([(_revoked(one), float(until)) for one, until in _pairs(found)])
        self._beats += 1

    def lost(self) -> None:
        """Redis is away: what it has is to be read when it is back."""
        self._beats = 0


def _pairs(found: list[Any]) -> list[tuple[bytes, bytes]]:
    return list(zip(found[::2], found[1::2], strict=True))


def _revoked(member: bytes) -> Revoked:
    return msgspec.json.decode(member, type=Revoked)
