"""Commands on keys reach the server that has them, also when it was lost or another one has them now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.support.clusters import Cluster
from tests.support.inside import settings
from tests.support.log import DATABASE, BackEnd
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.link import ERRORS
from trio_sse.broker.topology import look


def test_one_link_serves_all_and_comes_back(port: int, back_end: BackEnd) -> None:
    async def test() -> None:
        links = KeyLinks(settings(redis_port=port, redis_main_db=DATABASE), None)
        await links.call(b"key", "SET", "key", "value")
        assert await asyncio.gather(*[links.call(b"key", "ECHO", n) for n in range(50)]) == [
            str(n).encode() for n in range(50)
        ]
        assert back_end.get("key") == b"value"
        clients = [one for one in back_end.client_list(_type="normal") if one["cmd"] == "echo"]
        assert len(clients) == 1
        back_end.client_kill_filter(_id=clients[0]["id"])
        with pytest.raises(ERRORS):
            await links.call(b"key", "GET", "key")
        assert await links.call(b"key", "GET", "key") == b"value"
        await links.close()

    asyncio.run(test())


def test_an_error_is_an_answer_among_others_and_the_link_is_made_anew(port: int, back_end: BackEnd) -> None:
    async def test() -> None:
        links = KeyLinks(settings(redis_port=port, redis_main_db=DATABASE), None)
        answers = await links.calls(None, [("SET", "key", 1), ("LLEN", "key"), ("GET", "key")])
        assert (answers[0], answers[2], type(answers[1])) == (b"OK", b"1", ResponseError)
        with pytest.raises(ResponseError):
            await links.call(b"key", "LLEN", "key")
        assert await links.call(b"key", "GET", "key") == b"1"
        await links.close()

    asyncio.run(test())


def test_whoever_gives_up_leaves_no_answer_to_the_next(port: int, back_end: BackEnd) -> None:
    async def test() -> None:
        links = KeyLinks(settings(redis_port=port, redis_main_db=DATABASE), None)
        await links.call(b"key", "ECHO", "first")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await links.call(b"key", "BLPOP", "empty", 1)
        assert await links.call(b"key", "ECHO", "mine") == b"mine"
        await links.close()

    asyncio.run(test())


def with_cluster(three: Cluster, test: Callable[[KeyLinks, ClusterMap], Awaitable[None]]) -> None:
    async def run() -> None:
        chosen = settings(redis_cluster=",".join(node.address for node in three.masters))
        known = ClusterMap(Channels("n").of)
        known.learn((await look(chosen)).ranges)
        links = KeyLinks(chosen, known)
        try:
            await test(links, known)
        finally:
            await links.close()

    asyncio.run(run())


def test_each_key_is_at_the_master_that_serves_it_also_when_that_changes(three: Cluster) -> None:
    async def test(links: KeyLinks, known: ClusterMap) -> None:
        keys = [f"key-{number}" for number in range(20)]
        for key in keys:
            await links.call(key.encode(), "SET", key, key)
            assert three.master_of(key).client.get(key) == key.encode()
        source = three.master_of("key-0")
        target = next(node for node in three.masters if node is not source)
        source.client.delete(*[key for key in keys if key_slot(key.encode()) == key_slot(b"key-0")])
        slot = key_slot(b"key-0")
        three.move(slot, target)
        three.wait_until_well()
        for _ in range(2):
            await links.call(b"key-0", "SET", "key-0", "moved")
        assert target.client.get("key-0") == b"moved"
        assert links.address_of(b"key-0") == ("127.0.0.1", target.port)
        assert known.address_of(b"key-0") == ("127.0.0.1", source.port), "the map is the subscriber's"
        known.learn((await look(settings(redis_cluster=source.address))).ranges)
        assert await links.call(b"key-0", "GET", "key-0") == b"moved"
        target.client.delete("key-0")
        three.move(slot, source)
        three.wait_until_well()
        known.learn((await look(settings(redis_cluster=source.address))).ranges)
        assert links.address_of(b"key-0") == ("127.0.0.1", source.port), "what was said of old is forgotten"

    with_cluster(three, test)


def test_while_a_slot_is_on_its_way_a_key_is_found_where_it_is(three: Cluster) -> None:
    async def test(links: KeyLinks, known: ClusterMap) -> None:
        source = three.master_of("moving")
        target = next(node for node in three.masters if node is not source)
        slot = key_slot(b"moving")
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        try:
            await links.call(b"moving", "SET", "moving", "here")  # the source has no such key: ASK
            assert await links.call(b"moving", "GET", "moving") == b"here"
        finally:
            target.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
            source.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    with_cluster(three, test)


def test_where_no_master_is_known_that_is_an_error_of_redis(three: Cluster) -> None:
    async def test() -> None:
        links = KeyLinks(settings(redis_cluster=three.masters[0].address), ClusterMap(Channels("n").of))
        with pytest.raises(RedisConnectionError):
            await links.call(b"key", "GET", "key")

    asyncio.run(test())
