"""Messages by hand to channels by key of a real Redis, and of a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
import redis

from tests.support.clusters import Cluster, cluster
from tests.support.inside import settings
from tests.support.ports import free_port
from tests.support.routed import at
from trio_sse.broker.link import ERRORS
from trio_sse.commands.keyed import KeyedSender, Sent
from trio_sse.settings import Settings


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with cluster(3) as found:
        yield found


def sent(values: Settings, *messages: bytes) -> list[Sent]:
    with asyncio.Runner() as runner, KeyedSender(values, runner) as sender:
        return [sender.send(message) for message in messages]


def test_it_says_which_channels_and_how_many_subscribers(valkey: int) -> None:
    with redis.Redis(port=valkey) as client:
        subscribed: Any = cast(Any, client).pubsub()
        subscribed.subscribe("keyed:user:1", "keyed:topic:news")
        for _ in range(2):
            subscribed.get_message(timeout=5)
        found = sent(
            at(valkey, redis_channel="keyed", redis_routing="by-key"),
            b'{"user_id":[1,"ann"],"topic":"news"}',
            b'{"user_id":"*"}',
        )
        subscribed.close()
    assert found == [
        (2, ["keyed:user:1", "keyed:user:ann", "keyed:topic:news"]),
        (0, ["keyed:all"]),
    ]


def test_in_a_cluster_each_goes_to_its_master_over_links_that_stay(three: Cluster) -> None:
    values = settings(redis_cluster=three.masters[0].address, redis_channel="keyed")
    subscribed = []
    for user in range(9):
        node = three.master_of(f"keyed:user:{user}")
        found: Any = cast(Any, node.client).pubsub()
        found.ssubscribe(f"keyed:user:{user}")
        found.get_message(timeout=5)
        subscribed.append(found)
    before = [node.client.info("stats")["total_connections_received"] for node in three.masters]
    messages = [b'{"user_id":%d}' % user for user in range(9)] * 3
    assert [one.subscribers for one in sent(values, *messages)] == [1] * 27
    after = [node.client.info("stats")["total_connections_received"] for node in three.masters]
    # One for each master, and one that asks for the slots.
    assert sum(after) - sum(before) <= 4
    for one in subscribed:
        one.close()


def test_what_is_wrong_is_raised() -> None:
    with pytest.raises(ERRORS):
        sent(at(free_port(), redis_routing="by-key"), b'{"user_id":1}')
    with pytest.raises(ERRORS):
        sent(settings(redis_cluster=f"127.0.0.1:{free_port()}"), b'{"user_id":1}')
