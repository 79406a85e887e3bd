"""Copies of messages → the channels of those they are for, of one Redis or of a cluster. asyncio only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ClusterDownError, MovedError, ResponseError

from trio_sse.broker.cluster_map import Address, ClusterMap
from trio_sse.broker.link import Link, answer_within, call
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.sender import ANSWER_SECONDS, Copy

_ROUNDS = 5
"""How often a channel may turn out to have moved."""


class Post:
    """Publishes. In a cluster, each copy goes to the master that serves its channel; what `cluster` knows is
    corrected by what masters say."""

    def __init__(self, cluster: ClusterMap | None) -> None:
        self._cluster = cluster

    async def publish(self, copies: Sequence[Copy], links: OpenLinks) -> list[int]:
        """Publish all. Returns how many subscribers each had.

        Raises one of link.ERRORS. A ResponseError means that nothing was published; after another one a part
        may be.
        """
        received = [0] * len(copies)
        left = list(range(len(copies)))
        published = False
        for _ in range(_ROUNDS):
            moved = []
            for address, places in self._by_master(copies, left).items():
                answers = await self._publish_at(address, [copies[place] for place in places], links)
                for place, answer in zip(places, answers, strict=True):
                    if isinstance(answer, MovedError) and self._cluster is not None:
                        self._cluster.correct(answer.slot_id, (answer.host, answer.port))
                        moved.append(place)
                    elif isinstance(answer, ResponseError) and not published:
                        raise answer
                    elif isinstance(answer, Exception):
                        raise ConnectionError(f"a part was published, then: {answer}") from answer
                    else:
                        received[place] = answer
                        published = True
            if not moved:
                return received
            left = sorted(moved)  # the order of messages for one channel stays
        raise ConnectionError("the cluster moves its slots again and again")

    async def at_home(self, key: bytes, links: OpenLinks, *command: Any) -> Any:
        """Give a command to the master that serves `key`. Raises as `publish`."""
        for _ in range(_ROUNDS):
            address = self._home_of(key)
            try:
                async with answer_within(ANSWER_SECONDS):
                    return await call(await links.at(address), *command)
            except MovedError as moved:
                if self._cluster is None:
                    raise
                self._cluster.correct(moved.slot_id, (moved.host, moved.port))
            except BaseException:
                await links.close(address)
                raise
        raise ConnectionError("the cluster moves its slots again and again")

    def _by_master(self, copies: Sequence[Copy], places: Sequence[int]) -> dict[Address | None, list[int]]:
        found: dict[Address | None, list[int]] = {}
        for place in places:
            found.setdefault(self._home_of(copies[place][0]), []).append(place)
        return found

    def _home_of(self, name: bytes) -> Address | None:
        if self._cluster is None:
            return None
        address = self._cluster.address_of(name)
        if address is None:
            raise ClusterDownError("no node is known that serves this channel")
        return address

    async def _publish_at(
        self, address: Address | None, copies: Sequence[Copy], links: OpenLinks
    ) -> list[Any]:
        verb = b"PUBLISH" if self._cluster is None else b"SPUBLISH"
        try:
            async with answer_within(ANSWER_SECONDS):
                link = await links.at(address)
                commands: Any = [(verb, channel, payload) for channel, payload in copies]
                await link.send_packed_command(link.pack_commands(commands))
                return [await _answer(link) for _ in copies]
        except BaseException:
            await links.close(address)
            raise


async def _answer(link: Link) -> Any:
    """The next answer; an error of Redis is one too."""
    try:
        return await call(link)
    except ResponseError as error:
        return error
