from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis.crc import key_slot
from redis.exceptions import MovedError

from tests.support.clusters import Cluster, cluster
from tests.support.inside import settings
from tests.support.ports import free_port
from trio_sse.broker.home import Home
from trio_sse.broker.link import ERRORS, call

KEY = "somewhere"


@pytest.fixture(scope="module")
def masters() -> Iterator[Cluster]:
    with cluster(3) as found:
        yield found


def home_in(masters: Cluster) -> Home:
    """One that begins at a node that does not have the key."""
    owner = masters.master_of(KEY)
    nodes = [node.address for node in masters.masters if node is not owner]
    return Home(settings(redis_cluster=tuple(nodes)))


class Asked:
    """Asks for the key, and notes at which port."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ports: list[int] = []

    async def __call__(self) -> None:
        async with self.home.open() as link:
            self.ports.append(link.port)
            await call(link, "GET", KEY)


async def serve(asked: Asked) -> None:
    await asked.home.serve(asked)


def test_a_node_that_names_another_one_is_followed_and_remembered(masters: Cluster) -> None:
    asked, owner = Asked(home_in(masters)), masters.master_of(KEY).port
    asyncio.run(serve(asked))
    assert asked.ports[1:] == [owner]
    asyncio.run(serve(asked))
    assert asked.ports[2:] == [owner]


def test_a_key_that_has_moved_is_followed(masters: Cluster) -> None:
    asked = Asked(home_in(masters))
    asyncio.run(serve(asked))
    target = next(node for node in masters.masters if node is not masters.master_of(KEY))
    masters.move(key_slot(KEY.encode()), target)
    asyncio.run(serve(asked))
    assert asked.ports[-1] == target.port


def test_somebody_who_knows_is_asked_first(masters: Cluster) -> None:
    owner = masters.master_of(KEY).port
    home = Home(settings(redis_cluster=(f"127.0.0.1:{free_port()}",)), lambda: ("127.0.0.1", owner))
    asked = Asked(home)
    asyncio.run(serve(asked))
    assert asked.ports == [owner]


def test_after_an_error_the_next_node_is_asked(masters: Cluster) -> None:
    gone = free_port()
    asked = Asked(Home(settings(redis_cluster=(f"127.0.0.1:{gone}", masters.masters[0].address))))
    with pytest.raises(ERRORS, match=str(gone)):
        asyncio.run(serve(asked))
    asyncio.run(serve(asked))
    assert asked.ports[0] == masters.masters[0].port


def test_two_that_name_each_other_are_not_asked_for_ever() -> None:
    calls = []

    async def there() -> None:
        calls.append(1)
        raise MovedError("1 127.0.0.1:1")

    with pytest.raises(MovedError):
        asyncio.run(Home(settings()).serve(there))
    assert len(calls) == 2
