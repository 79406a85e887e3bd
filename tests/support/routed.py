"""Channels by key, as whoever is subscribed to them in Redis sees them. asyncio only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from tests.support.inside import PATIENCE_SECONDS, settings
from trio_sse.broker.link import Link, call, open_link
from trio_sse.delivery.notices import GAP
from trio_sse.settings import Settings


def in_asyncio(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test as a program of asyncio, within a time that it never needs."""

    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE_SECONDS):
            await test()

    asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, where nothing could tell: another process is part of it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


class Heard:
    """What all channels of a prefix, or of a cluster those named, have brought."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.gaps = 0
        self.all: list[tuple[str, dict[str, Any]]] = []

    async def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """Wait for so many messages in all. Returns each with its channel."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.all) < count:
                await self._one()
        return self.all

    async def gap(self, count: int = 1) -> None:
        """Wait for so many gaps in all."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.gaps < count:
                await self._one()

    async def _one(self) -> None:
        response = await call(self._link)
        if response[0] in (b"message", b"pmessage", b"smessage"):
            channel, payload = response[-2:]
            if payload == GAP:
                self.gaps += 1
            else:
                self.all.append((channel.decode(), json.loads(payload)))

    @property
    def numbers(self) -> list[int]:
        """The field `n` of each message."""
        return [message["n"] for _, message in self.all]


@contextlib.asynccontextmanager
async def hearing(port: int, prefix: str, *sharded: str) -> AsyncIterator[Heard]:
    """Subscribed to all channels by key that begin with `prefix`, or to those named in a cluster's node."""
    async with open_link(at(port)) as link:
        if sharded:
            for channel in sharded:
                await call(link, "SSUBSCRIBE", channel)
        else:
            await call(link, "PSUBSCRIBE", f"{prefix}:*")
        yield Heard(link)


def at(port: int, **values: Any) -> Settings:
    """Settings with a Redis on this port."""
    return settings(redis_host="127.0.0.1", redis_port=port, **values)
