"""Revocations in a real Redis, for all processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis
import trio

from tests.broker.test_control import settings_of
from tests.support.inside import until
from tests.support.log import BackEnd
from trio_sse.broker import control as module
from trio_sse.broker import revoked_tokens
from trio_sse.broker.control import Control
from trio_sse.broker.link import ERRORS
from trio_sse.broker.revoked_tokens import Revoked, RevokedTokens

ONE = Revoked("t-1", None, 0.0)


class Process:
    """What one knows of revocations."""

    def __init__(self, name: str, port: int) -> None:
        self.known: list[tuple[Revoked, float]] = []
        self.loads = 0
        self.control = Control(settings_of(port), name, None, self._obey, self._beat, self._lost)
        self.tokens = RevokedTokens(self.control, self._loaded, lambda: self.known)

    def _loaded(self, all_of_them: list[tuple[Revoked, float]]) -> None:
        self.known = all_of_them
        self.loads += 1

    async def _obey(self, kind: str, what: msgspec.Raw) -> object:
        return None

    async def _beat(self) -> None:
        await self.tokens.beat()

    def _lost(self) -> None:
        self.tokens.lost()


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    async with trio.open_nursery() as nursery:
        await nursery.start(process.control.run)
        yield process
        nursery.cancel_scope.cancel()


def stored(port: int) -> dict[Any, float]:
    with redis.Redis(port=port, db=1) as client:
        return dict(client.zrange("trio_sse:control:{notifications}:revoked", 0, -1, withscores=True))


async def test_one_that_starts_later_has_them_from_the_beginning(port: int, back_end: BackEnd) -> None:
    async with running(Process("a", port)) as one:
        assert one.known == []
        until_then = await one.tokens.add(ONE, 3600, 10)
        assert until_then is not None
        assert abs(until_then - one.control.now() - 3600) < 60
    async with running(Process("b", port)) as other:
        [(known, until_known)] = other.known
        assert known == ONE
        assert until_known == pytest.approx(until_then, abs=0.01)


async def test_one_that_missed_the_command_has_them_soon(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    async with running(Process("a", port)) as one, running(Process("b", port)) as other:
        await one.tokens.add(ONE, 3600, 10)
        await until(lambda: other.known)


async def test_a_revocation_ends_with_its_time(port: int, back_end: BackEnd) -> None:
    async with running(Process("a", port)) as one:
        await one.tokens.add(ONE, 0.05, 10)
        await trio.sleep(0.1)
        await one.tokens.add(Revoked("t-2", None, 0.0), 3600, 10)
        assert len(stored(port)) == 1


async def test_a_shorter_time_takes_nothing_back(port: int, back_end: BackEnd) -> None:
    async with running(Process("a", port)) as one:
        first = await one.tokens.add(ONE, 3600, 10)
        assert await one.tokens.add(ONE, 60, 10) == pytest.approx(first, abs=0.01)
        longer = await one.tokens.add(ONE, 7200, 10)
        assert longer is not None
        assert list(stored(port).values()) == [pytest.approx(longer, abs=0.01)]


async def test_there_is_a_bound(port: int, back_end: BackEnd) -> None:
    async with running(Process("a", port)) as one:
        assert await one.tokens.add(ONE, 3600, 1) is not None
        assert await one.tokens.add(Revoked("t-2", None, 0.0), 3600, 1) is None
        assert await one.tokens.add(ONE, 7200, 1) is not None, "one that is there may be kept longer"


async def test_without_redis_it_is_not_revoked() -> None:
    one = Process("a", 1)
    with pytest.raises(ERRORS):
        await one.tokens.add(ONE, 3600, 10)


async def test_they_are_read_again_as_soon_as_redis_is_back(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(revoked_tokens, "RELOAD_BEATS", 1_000_000)
    async with running(Process("a", port)) as one:
        assert one.loads == 1
        one.tokens.lost()
        await until(lambda: one.loads == 2)


async def test_a_redis_that_comes_back_without_them_gets_them_again(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that only one of the processes knows, and each with its time."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(revoked_tokens, "_AT_A_TIME", 1)
    another = Revoked(None, "ann", 1_700_000_000.5)
    async with running(Process("a", port)) as one, running(Process("b", port)) as other:
        at = await one.tokens.add(ONE, 3600, 10)
        await one.tokens.add(another, 7200, 10)
        await until(lambda: len(one.known) == len(other.known) == 2)
        known, over = one.known, (Revoked("over", None, 0.0), 1.0)
        one.known, other.known = [known[0], over], [known[1], over]
        back_end.flushall()
        for process in (one, other):
            process.tokens.lost()
        await until(lambda: len(one.known) == len(other.known) == 2 and over not in one.known)
    assert min(stored(port).values()) == pytest.approx(at, abs=0.01)
    assert len(stored(port)) == 2


async def test_what_an_operator_takes_out_of_redis_is_not_written_again(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    async with running(Process("a", port)) as one:
        await one.tokens.add(ONE, 3600, 10)
        await until(lambda: one.known)
        back_end.flushall()
        await until(lambda: not one.known)
    assert stored(port) == {}
