"""Links that stay open for several calls, one to each Redis. asyncio only."""

from __future__ import annotations

import asyncio

from trio_sse.broker.cluster_map import Address
from trio_sse.broker.link import Link, open_link
from trio_sse.settings import Settings

IDLE_SECONDS = 2.0
"""A link that was idle for longer is better opened anew: Redis, or what is in between, may have closed it."""


class OpenLinks:
    """As an asynchronous context manager it closes them all. For one task at a time. With `database` they are
    for keys: those of channels need none."""

    def __init__(self, settings: Settings, *, database: bool = False) -> None:
        self._settings = settings
        self._database = database
        self._open: dict[Address | None, tuple[open_link, Link]] = {}
        self._used_at: dict[Address | None, float] = {}

    async def __aenter__(self) -> OpenLinks:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._open:
            await self.close(next(iter(self._open)))

    async def at(self, address: Address | None) -> Link:
        """The link to the node at this address, or to the Redis of the settings. Raises one of
        link.ERRORS."""
        now = asyncio.get_running_loop().time()
        if now - self._used_at.get(address, now) > IDLE_SECONDS:
            await self.close(address)
        self._used_at[address] = now
        if address not in self._open:
            opening = open_link(self._settings, database=self._database, at=address)
            self._open[address] = opening, await opening.__aenter__()
        return self._open[address][1]

    async def close(self, address: Address | None) -> None:
        """Close this one: what it has sent, or waits for, is of no use. Harmless if it is not open."""
        self._used_at.pop(address, None)
        if (found := self._open.pop(address, None)) is not None:
            await found[0].__aexit__()
