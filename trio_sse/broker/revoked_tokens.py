"""Revoked tokens in Redis, for processes that start later, or were away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import structlog

from trio_sse.broker.control import Control

log = structlog.stdlib.get_logger("trio_sse.broker.revoked_tokens")

RELOAD_BEATS = 5
"""A process reads all of them each so many beats of the control channel, in case that it missed a command."""

_AT_A_TIME = 1000
"""How many are written back in one command."""


class Revoked(msgspec.Struct, frozen=True, array_like=True):
    """A revocation as Redis has it."""

    jti: str | None
    user: str | None
    issued_before: float


class RevokedTokens:
    """A sorted set of revocations, by the time at which the last of the tokens has expired. `loaded` gets all
    of them, each with its time, when they were read.

    A Redis that was away may come back without some: empty, or as a replica that had not received everything.
    Those that are `known` here are written again. Otherwise Redis is right: what an operator takes out there
    is no longer revoked.
    """

    def __init__(
        self,
        control: Control,
        loaded: Callable[[list[tuple[Revoked, float]]], None],
        known: Callable[[], Iterable[tuple[Revoked, float]]],
    ) -> None:
        self._control = control
        self._loaded = loaded
        self._known = known
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
            found = await self._stored()
            if self._beats == 0 and await self._restored(found):
                found = await self._stored()  # another process may have written others
            self._loaded([(_revoked(one), until) for one, until in found.items()])
        self._beats += 1

    async def _stored(self) -> dict[bytes, float]:
        (found,) = await self._control.call_here(
            ("ZRANGEBYSCORE", self._key, f"{self._control.now():.3f}", "+inf", "WITHSCORES")
        )
        return {one: float(until) for one, until in zip(found[::2], found[1::2], strict=True)}

    async def _restored(self, found: dict[bytes, float]) -> bool:
        """Write what is known here and not `found`. Returns whether there is any."""
        now = self._control.now()
        known = {msgspec.json.encode(one): until for one, until in self._known() if until > now}
        lost = [(f"{until:.3f}", one) for one, until in known.items() if one not in found]
        for at in range(0, len(lost), _AT_A_TIME):
            pairs = [value for pair in lost[at : at + _AT_A_TIME] for value in pair]
            await self._control.call_here(("ZADD", self._key, "NX", *pairs))
        if lost:
            log.warning(
                "Redis is back without revocations that are known here: written again", count=len(lost)
            )
        return bool(lost)

    def lost(self) -> None:
        """Redis is away: what it has is to be read when it is back."""
        self._beats = 0


def _revoked(member: bytes) -> Revoked:
    return msgspec.json.decode(member, type=Revoked)
