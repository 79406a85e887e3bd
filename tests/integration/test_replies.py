"""`reply_to` on real processes: a back end learns from each node what became of its message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.integration.test_publish import TOKENS, post
from tests.support.client import eventually, streaming, streams
from tests.support.clusters import Cluster
from tests.support.log import DATABASE
from tests.support.process import Service, Services
from tests.support.variants import HYPERCORN, TRIO_SSE

pytestmark = pytest.mark.integration


@pytest.fixture
def back_end(valkey: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey, db=DATABASE) as client:
        yield client
        for name in client.scan_iter("replies:*"):
            client.delete(name)


def two(start: Services, name: str, **settings: Any) -> list[Service]:
    common = {"SSE_REPLY_LISTS": "replies:", "SSE_REDIS_CHANNEL": name, **TOKENS}
    return start.each((TRIO_SSE, HYPERCORN), **{**common, **settings})


def read(client: redis.Redis, name: str) -> list[tuple[int, int, int, int]]:
    lines: Any = client.lrange(name, 0, -1)
    found = [json.loads(one) for one in lines]
    assert len({one["node"] for one in found}) == len(found), "one of each node"
    assert all(one["id"] for one in found)
    return sorted((one["took"], one["buffered"], one["dropped"], one["streams"]) for one in found)


async def replied(client: redis.Redis, name: str, *expected: tuple[int, int, int, int]) -> None:
    await eventually(lambda: read(client, name) == [*expected], f"{name}: {expected}")


def message(name: str, **fields: Any) -> str:
    return json.dumps({"message": "hello", "reply_to": f"replies:{name}", **fields})


@pytest.mark.parametrize("stream", [None, "log-of-replies"])
async def test_each_node_that_has_the_user_answers(
    start: Services, back_end: redis.Redis, stream: str | None
) -> None:
    here, there = two(start, f"replies-{stream}", SSE_REDIS_STREAM=stream)
    async with streams(here.port, ["ann", "ann", "bob"]), streaming(there.port, "ann"):
        assert post(here, message("r1", user_id="ann").encode()).status == 200
        await replied(back_end, "replies:r1", (1, 0, 0, 1), (2, 0, 0, 2))
        if stream is None:
            back_end.publish(here.channel, message("r2", user_id=["bob", "eve"]))
        else:
            back_end.xadd(stream, {"payload": message("r2", user_id=["bob", "eve"])})
        await replied(back_end, "replies:r2", (1, 0, 0, 1))
        both = f"[{message('r3', user_id='eve')},{message('r4', user_id='*')}]"
        assert post(here, both.encode()).status == 200
        await replied(back_end, "replies:r4", (1, 0, 0, 1), (3, 0, 0, 3))
    assert not back_end.exists("replies:r3")
    assert here.get("/readyz").json["totals"]["replies"] == 3


async def test_by_key_each_node_answers_once_whatever_channels_brought_it(
    start: Services, back_end: redis.Redis
) -> None:
    here, there = two(start, "keyed-replies", SSE_REDIS_ROUTING="by-key")
    async with streams(here.port, ["ann", "bob"]), streaming(there.port, "ann"):
        assert back_end.publish("keyed-replies:user:ann", message("k1")) == 2, "nodes that are subscribed"
        await replied(back_end, "replies:k1", (1, 0, 0, 1), (1, 0, 0, 1))
        assert post(there, message("k2", user_id=["ann", "bob"]).encode()).status == 200
        await replied(back_end, "replies:k2", (1, 0, 0, 1), (2, 0, 0, 2))
        assert back_end.publish("keyed-replies:user:eve", message("k3")) == 0, "nobody was there"
    # A node stays subscribed for a while.
    assert back_end.publish("keyed-replies:user:bob", message("k4")) == 1
    assert not back_end.exists("replies:k4")


async def test_in_a_cluster_lists_are_at_their_masters(start: Services, three: Cluster) -> None:
    nodes = ",".join(node.address for node in three.masters)
    settings = {"REDIS_CLUSTER": nodes, "REDIS_HOST": None, "REDIS_PORT": None}
    here, there = two(start, "clustered-replies", **settings)
    async with streaming(here.port, "ann"), streaming(there.port, "ann"):
        for number in range(10):
            name = f"c{number}"
            assert three.publish("clustered-replies:user:ann", message(name)) == 2
            client = three.master_of(f"replies:{name}").client
            await replied(client, f"replies:{name}", (1, 0, 0, 1), (1, 0, 0, 1))


async def test_where_it_is_not_set_the_field_has_no_effect(start: Services, back_end: redis.Redis) -> None:
    service = start(SSE_REDIS_CHANNEL="no-replies")
    async with streaming(service.port, "ann") as client:
        back_end.publish("no-replies", message("n1", user_id="ann"))
        assert (await client.notification())["reply_to"] == "replies:n1"
    assert not back_end.exists("replies:n1")
    assert "reply_to" not in service.log
