"""Links for commands on keys: to Redis, or to those masters of a cluster that have the keys. asyncio only."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from trio_sse.broker.cluster_map import Address, ClusterMap, redirected
from trio_sse.broker.link import Link, answer_within, call, open_link
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0

Command = tuple[str | int | bytes, ...]


class KeyLinks:
    """Opens a link when there is a command for it, and keeps it until it fails. Without `database` it selects
    none: for commands on channels."""

    def __init__(self, settings: Settings, cluster: ClusterMap | None, *, database: bool = True) -> None:
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._links: dict[Address | None, _KeptLink] = {}
        # Slots that have moved, as a master said, until the map has them in their place.
        self._moved: dict[int, Address] = {}

    async def call(self, key: bytes, *command: str | int | bytes) -> Any:
        """The answer to a command on `key`. Raises one of ERRORS."""
        asked = self.address_of(key)
        (answer,) = await self.calls(asked, [command])
        if isinstance(answer, AskError):  # as is a MovedError
            there = redirected(answer, asked)
            if isinstance(answer, MovedError):
                self._moved[key_slot(key)] = there
                (answer,) = await self.calls(there, [command])
            else:
                _, answer = await self.calls(there, [("ASKING",), command])
        if isinstance(answer, Exception):
            self._moved.pop(key_slot(key), None)
            raise answer
        return answer

    async def calls(self, address: Address | None, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands at one server, or the errors with which it refuses them. Raises one of
        ERRORS if there is no answer."""
        if (link := self._links.get(address)) is None:
            link = self._links[address] = _KeptLink(self._settings, address, database=self._database)
        return await link.calls(commands)

    def address_of(self, key: bytes) -> Address | None:
        """The master that has a key. None: it is the Redis of the settings. Raises one of ERRORS if the
        master is not known."""
        slot = key_slot(key)
        known = None if self._cluster is None else self._cluster.address_of(key)
        if (moved := self._moved.get(slot)) is not None:
            if moved != known:
                return moved
            del self._moved[slot]
        if known is None and self._cluster is not None:
            raise RedisConnectionError("no master of the cluster is known to serve the key")
        return known

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
        self._links.clear()


class _KeptLink:
    """One link. Its users take turns."""

    def __init__(self, settings: Settings, at: Address | None, *, database: bool) -> None:
        self._settings = settings
        self._at = at
        self._database = database
        self._turn = asyncio.Lock()
        self._opened: open_link | None = None
        self._link: Link | None = None

    async def calls(self, commands: Sequence[Command]) -> list[Any]:
        async with self._turn:
            try:
                if self._link is None:
                    self._opened = open_link(self._settings, database=self._database, at=self._at)
                    self._link = await self._opened.__aenter__()
                async with answer_within(ANSWER_SECONDS):
                    answers = await _answers(self._link, commands)
            except BaseException:  # an answer may be under way, for somebody else
                await self.close()
                raise
            if any(isinstance(one, ResponseError) and not isinstance(one, AskError) for one in answers):
                await self.close()  # it may be no master any more
            return answers

    async def close(self) -> None:
        opened, self._opened, self._link = self._opened, None, None
        if opened is not None:
            await opened.__aexit__()


async def _answers(link: Link, commands: Sequence[Command]) -> list[Any]:
    await link.send_packed_command(link.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await call(link))
        except ResponseError as error:
            answers.append(error)
    return answers
