"""Copies of messages → the channels of those they are for, or the partitions of the log, of one Redis or of a
cluster. asyncio only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError

from trio_sse.broker.cluster_map import Address, ClusterMap, redirected
from trio_sse.broker.errors import PartlyError
from trio_sse.broker.link import ERRORS, Link, answer_within, call
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.sender import ANSWER_SECONDS, Copy

_ROUNDS = 5
"""How often a channel may turn out to have moved."""


class Order(NamedTuple):
    """A command, to be given to whoever serves its channel or key, which has no other meaning here."""

    name: bytes
    command: tuple[str | int | bytes, ...]


class Post:
    """Publishes. In a cluster, each copy goes to the master that serves its channel or key; what `cluster`
    knows is corrected by what masters say."""

    def __init__(self, cluster: ClusterMap | None) -> None:
        self._cluster = cluster

    def order(self, copy: Copy) -> Order:
        """What publishes a copy to its channel. Redis answers how many subscribers it had."""
        verb = b"PUBLISH" if self._cluster is None else b"SPUBLISH"
        return Order(copy[0], (verb, *copy))

    async def publish(self, copies: Sequence[Copy], links: OpenLinks) -> list[int]:
        """Publish all to their channels. Returns how many subscribers each had. Raises as `give`."""
        return await self.give([self.order(copy) for copy in copies], links)

    async def give(self, orders: Sequence[Order], links: OpenLinks) -> list[Any]:
        """Give all these commands. Returns their answers. A master that is away keeps no other from getting
        its own.

        Raises PartlyError if some were done and others were not, which it names. Any other of link.ERRORS
        means that Redis has confirmed none, and a ResponseError that none was done.
        """
        answered: list[Any] = [None] * len(orders)
        left = list(range(len(orders)))
        failed: dict[int, Exception] = {}
        for _ in range(_ROUNDS):
            moved = []
            for address, places in self._by_master(orders, left).items():
                answers = await self._give_at(address, [orders[place] for place in places], links)
                for place, answer in zip(places, answers, strict=True):
                    if isinstance(answer, AskError) and self._cluster is not None:
                        answer = await self._redirected(answer, address, links, orders[place])
                    if isinstance(answer, MovedError) and self._cluster is not None:
                        moved.append(place)
                    elif isinstance(answer, Exception):
                        failed[place] = answer
                    else:
                        answered[place] = answer
            left = sorted(moved)  # the order of messages for one channel stays
            if not left:
                break
        else:
            moving = ConnectionError("the cluster moves its slots again and again")
            failed.update(dict.fromkeys(left, moving))
        if failed:
            raise _failure(failed, len(orders))
        return answered

    async def _redirected(
        self, elsewhere: AskError, asked: Address | None, links: OpenLinks, order: Order
    ) -> Any:
        """The answer to a command that belongs to another master, or the error. A MovedError: it is to be
        given again, to whom the cluster is now known to name."""
        if isinstance(elsewhere, MovedError):
            self._correct(elsewhere, asked)
            return elsewhere
        try:  # the slot is being moved, and this key has been
            return await self._ask(redirected(elsewhere, asked), links, *order.command, asking=True)
        except ERRORS as error:
            return error

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

    def _by_master(self, orders: Sequence[Order], places: Sequence[int]) -> dict[Address | None, list[int]]:
        found: dict[Address | None, list[int]] = {}
        for place in places:
            found.setdefault(self._home_of(orders[place].name), []).append(place)
        return found

    def _home_of(self, name: bytes) -> Address | None:
        """The master that serves it. None: the Redis of the settings, or in a cluster none that is known."""
        return None if self._cluster is None else self._cluster.address_of(name)

    async def _give_at(self, address: Address | None, orders: Sequence[Order], links: OpenLinks) -> list[Any]:
        """The answer to each command, or the error in its place."""
        if address is None and self._cluster is not None:
            return [_homeless()] * len(orders)
        answers: list[Any] = []
        try:
            async with answer_within(ANSWER_SECONDS):
                link = await links.at(address)
                commands: Any = [order.command for order in orders]
                await link.send_packed_command(link.pack_commands(commands))
                while len(answers) < len(orders):
                    answers.append(await _answer(link))
        except ERRORS as error:
            await links.close(address)
            return answers + [error] * (len(orders) - len(answers))
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
    return ClusterDownError("no node is known that serves this channel or key", status_code="CLUSTERDOWN")


async def _answer(link: Link) -> Any:
    """The next answer; an error of Redis is one too."""
    try:
        return await call(link)
    except ResponseError as error:
        return error
