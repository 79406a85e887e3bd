"""Copies of messages → the channels of those they are for, of one Redis or of a cluster. asyncio only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from trio_sse.broker.cluster_map import Address, ClusterMap, redirected
from trio_sse.broker.errors import PartlyError
from trio_sse.broker.link import ERRORS, Link, answer_within, call
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
        """Publish all. Returns how many subscribers each had. A master that is away keeps no other from
        getting its copies.

        Raises PartlyError if some were published and others were not, which it names. Any other of
        link.ERRORS means that Redis has confirmed none, and a ResponseError that none was published.
        """
        received = [0] * len(copies)
        left = list(range(len(copies)))
        failed: dict[int, Exception] = {}
        for _ in range(_ROUNDS):
            moved = []
            for address, places in self._by_master(copies, left).items():
                answers = await self._publish_at(address, [copies[place] for place in places], links)
                for place, answer in zip(places, answers, strict=True):
                    if isinstance(answer, MovedError) and self._cluster is not None:
                        self._correct(answer, address)
                        moved.append(place)
                    elif isinstance(answer, Exception):
                        failed[place] = answer
                    else:
                        received[place] = answer
            left = sorted(moved)  # the order of messages for one channel stays
            if not left:
                break
        else:
            moving = ConnectionError("the cluster moves its slots again and again")
            failed.update(dict.fromkeys(left, moving))
        if failed:
            raise _failure(failed, len(copies))
        return received

    async def at_home(self, key: bytes, links: OpenLinks, *command: Any) -> Any:
        """Give a command to the master that serves `key`. Raises one of link.ERRORS."""
        for _ in range(_ROUNDS):
            address = self._home_of(key)
            if address is None and self._cluster is not None:
                raise _homeless()
            try:
                return await self._ask(address, links, *command)
            except MovedError as moved:
                if self._cluster is None:
                    raise
                self._correct(moved, address)
            except AskError as asking:  # the slot is being moved, and a new key is made at its new master
                return await self._ask(redirected(asking, address), links, *command, asking=True)
        raise ConnectionError("the cluster moves its slots again and again")

    async def _ask(
        self, address: Address | None, links: OpenLinks, *command: Any, asking: bool = False
    ) -> Any:
        try:
            async with answer_within(ANSWER_SECONDS):
                link = await links.at(address)
                if asking:
                    await call(link, "ASKING")
                return await call(link, *command)
        except ResponseError:
            raise  # the link is as good as it was
        except BaseException:
            await links.close(address)
            raise

    def _correct(self, moved: MovedError, asked: Address | None) -> None:
        if self._cluster is not None:
            self._cluster.correct(moved.slot_id, redirected(moved, asked))

    def _by_master(self, copies: Sequence[Copy], places: Sequence[int]) -> dict[Address | None, list[int]]:
        found: dict[Address | None, list[int]] = {}
        for place in places:
            found.setdefault(self._home_of(copies[place][0]), []).append(place)
        return found

    def _home_of(self, name: bytes) -> Address | None:
        """The master that serves it. None: the Redis of the settings, or in a cluster none that is known."""
        return None if self._cluster is None else self._cluster.address_of(name)

    async def _publish_at(
        self, address: Address | None, copies: Sequence[Copy], links: OpenLinks
    ) -> list[Any]:
        """The answer to each copy, or the error in its place."""
        if address is None and self._cluster is not None:
            return [_homeless()] * len(copies)
        verb = b"PUBLISH" if self._cluster is None else b"SPUBLISH"
        answers: list[Any] = []
        try:
            async with answer_within(ANSWER_SECONDS):
                link = await links.at(address)
                commands: Any = [(verb, channel, payload) for channel, payload in copies]
                await link.send_packed_command(link.pack_commands(commands))
                while len(answers) < len(copies):
                    answers.append(await _answer(link))
        except ERRORS as error:
            await links.close(address)
            return answers + [error] * (len(copies) - len(answers))
        except BaseException:
            await links.close(address)
            raise
        return answers


def _failure(failed: dict[int, Exception], count: int) -> Exception:
    """What to raise for those that failed, of so many. That it is not known whether one was published counts
    for more than a refusal."""
    unknown = [error for error in failed.values() if not isinstance(error, ResponseError)]
    error = (unknown or list(failed.values()))[0]
    if len(failed) == count and (not unknown or len(unknown) == count):
        return error
    return PartlyError(error, sorted(failed))


def _homeless() -> ClusterDownError:
    return ClusterDownError("no node is known that serves this channel", status_code="CLUSTERDOWN")


async def _answer(link: Link) -> Any:
    """The next answer; an error of Redis is one too."""
    try:
        return await call(link)
    except ResponseError as error:
        return error
