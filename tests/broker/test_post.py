"""Copies to the channels of a real Redis, and of a real cluster whose masters are away or changing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ResponseError

from tests.support.clusters import Cluster, Node, cluster
from tests.support.inside import settings
from tests.support.ports import free_port
from tests.support.routed import at, hearing, in_asyncio
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.errors import PartlyError, advice
from trio_sse.broker.link import ERRORS
from trio_sse.broker.open_links import OpenLinks
from trio_sse.broker.post import Post
from trio_sse.broker.sender import Copy
from trio_sse.broker.topology import look
from trio_sse.settings import Settings


def of(nodes: Cluster, **values: str) -> Settings:
    addresses = ",".join(node.address for node in nodes.alive)
    return settings(redis_cluster=addresses, redis_channel="n", **values)


@contextlib.asynccontextmanager
async def posting(values: Settings) -> AsyncIterator[tuple[Post, OpenLinks]]:
    found = None
    if values.redis_cluster:
        found = ClusterMap(Channels("n").of)
        found.learn((await look(values)).ranges)
    async with OpenLinks(values) as links:
        yield Post(found), links


def for_users(*users: str) -> list[Copy]:
    return [(f"n:user:{user}".encode(), b'{"n":%d}' % number) for number, user in enumerate(users)]


def user_at(nodes: Cluster, node: Node, *, but: str = "") -> str:
    """A user whose channel this master serves."""
    users = (f"u{number}" for number in range(10_000))
    return next(user for user in users if user != but and nodes.master_of(f"n:user:{user}") is node)


def test_each_copy_goes_to_its_channel_and_its_subscribers_are_counted(valkey: int) -> None:
    async def test() -> None:
        async with posting(at(valkey)) as (post, links), hearing(valkey, "n") as heard:
            assert await post.publish(for_users("ann", "bob", "ann"), links) == [1, 1, 1]
            assert [channel for channel, _ in await heard.take(3)] == [
                "n:user:ann",
                "n:user:bob",
                "n:user:ann",
            ]
            assert await post.publish([(b"m:all", b"{}")], links) == [0]
            assert await post.publish([], links) == []

    in_asyncio(test)


def test_in_a_cluster_each_copy_goes_to_the_master_that_serves_it(three: Cluster) -> None:
    async def test() -> None:
        users = [user_at(three, node) for node in three.masters]
        async with posting(of(three)) as (post, links), contextlib.AsyncExitStack() as stack:
            heard = [
                await stack.enter_async_context(hearing(node.port, "n", f"n:user:{user}"))
                for node, user in zip(three.masters, users, strict=True)
            ]
            assert await post.publish(for_users(*users, "nobody"), links) == [1, 1, 1, 0]
            for one, user in zip(heard, users, strict=True):
                assert [channel for channel, _ in await one.take(1)] == [f"n:user:{user}"]

    in_asyncio(test)


def test_what_redis_refuses_is_told_apart_from_what_it_took(valkey: int) -> None:
    """An ACL may allow one channel and not another."""
    with redis.Redis(port=valkey) as admin:
        rights = ["resetchannels", "&n:user:ann", "+publish"]
        admin.execute_command("ACL", "SETUSER", "some", "on", ">pw", "-@all", *rights)

    async def test() -> None:
        values = at(valkey, redis_username="some", redis_password="pw")
        async with posting(values) as (post, links):
            for users, left in ((("bob", "ann"), [0]), (("ann", "bob", "cid"), [1, 2])):
                with pytest.raises(PartlyError, match="NOPERM") as partly:
                    await post.publish(for_users(*users), links)
                assert partly.value.left == left
            assert "REDIS_USERNAME" in advice(partly.value, values)
            with pytest.raises(ResponseError):
                await post.publish(for_users("bob", "cid"), links)

    in_asyncio(test)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_master_that_is_away_keeps_nobody_else_from_getting_a_copy(dead: int) -> None:
    with cluster(3) as nodes:
        for node in nodes.masters:
            node.client.config_set("cluster-require-full-coverage", "no")
        users = [user_at(nodes, node) for node in nodes.masters]
        copies = for_users(*users)

        async def test() -> None:
            async with posting(of(nodes)) as (post, links):
                await post.publish(copies, links)
                nodes.masters[dead].kill()
                left = [place for place in range(3) if place != dead]
                async with contextlib.AsyncExitStack() as stack:
                    heard = [
                        await stack.enter_async_context(
                            hearing(nodes.masters[place].port, "n", f"n:user:{users[place]}")
                        )
                        for place in left
                    ]
                    for _ in range(2):
                        with pytest.raises(PartlyError, match="a part was published") as partly:
                            await post.publish(copies, links)
                        assert partly.value.left == [dead]
                        assert "REDIS_CLUSTER" in advice(partly.value, of(nodes))
                    for one in heard:
                        await one.take(2)
                with pytest.raises(ERRORS) as alone:
                    await post.publish([copies[dead]], links)
                assert not isinstance(alone.value, PartlyError)

        in_asyncio(test)


def test_slots_that_moved_are_found_and_the_order_stays(three: Cluster) -> None:
    async def test() -> None:
        home = three.masters[0]
        moving, staying = user_at(three, home), user_at(three, three.masters[2])
        channel = f"n:user:{moving}"
        slot = key_slot(channel.encode())
        async with posting(of(three)) as (post, links):
            three.move(slot, three.masters[1])
            async with hearing(three.masters[1].port, "n", channel) as heard:
                assert await post.publish(for_users(moving, staying, moving), links) == [1, 0, 1]
                await heard.take(2)
                assert heard.numbers == [0, 2]
        three.move(slot, home)

    in_asyncio(test)


def test_a_key_of_a_slot_that_is_being_moved_is_written_where_it_goes(three: Cluster) -> None:
    """Redis says ASK there, and takes only a command that follows ASKING."""
    key = b"trio_sse:idempotency:x"
    home, other = three.master_of(key), next(n for n in three.masters if n is not three.master_of(key))
    slot = key_slot(key)

    async def test() -> None:
        async with posting(of(three)) as (post, links):
            assert await post.at_home(key, links, "SET", key, "1", "NX", "GET") is None
            assert await post.at_home(key, links, "SET", key, "2", "NX", "GET") == b"1"

    other.call("CLUSTER", "SETSLOT", slot, "IMPORTING", home.id)
    home.call("CLUSTER", "SETSLOT", slot, "MIGRATING", other.id)
    try:
        in_asyncio(test)
    finally:
        for node in (home, other):
            node.call("CLUSTER", "SETSLOT", slot, "STABLE")
        with contextlib.suppress(redis.ResponseError):
            other.call("ASKING")


def test_of_a_channel_that_no_node_serves_the_cluster_is_told(three: Cluster) -> None:
    async def test() -> None:
        async with OpenLinks(of(three)) as links:
            post = Post(ClusterMap(Channels("n").of))  # it knows of no node
            with pytest.raises(ClusterDownError) as caught:
                await post.publish(for_users("ann"), links)
            assert "REDIS_CLUSTER" in advice(caught.value, of(three))
            with pytest.raises(ClusterDownError):
                await post.at_home(b"key", links, "GET", "key")

    in_asyncio(test)


def test_a_redis_that_is_away_is_told_as_it_is() -> None:
    async def test() -> None:
        values = at(free_port())
        async with posting(values) as (post, links):
            with pytest.raises(ERRORS) as caught:
                await post.publish(for_users("ann", "bob"), links)
            assert not isinstance(caught.value, PartlyError)
            assert "REDIS_PORT" in advice(caught.value, values)

    in_asyncio(test)
