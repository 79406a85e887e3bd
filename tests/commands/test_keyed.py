"""Messages by hand to channels by key, or to partitions, of a real Redis, and of a real cluster."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import redis

from tests.support.clusters import Cluster
from tests.support.inside import settings
from tests.support.ports import free_port
from tests.support.routed import at
from trio_sse.broker.link import ERRORS
from trio_sse.commands.keyed import Added, KeyedSender, PartitionSender, Sent
from trio_sse.delivery.partitions import Layout, parse_place
from trio_sse.delivery.targets import topic
from trio_sse.settings import Settings


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


EIGHT = Layout("keyed", 8)


def added(values: Settings, *messages: bytes) -> list[Added]:
    with asyncio.Runner() as runner, PartitionSender(values, runner) as sender:
        return [sender.send(message) for message in messages]


def test_of_partitions_it_says_which_entries_and_where_a_stream_may_begin(valkey: int) -> None:
    values = at(valkey, redis_stream="keyed", stream_partitions=8, redis_main_db=2)
    one, everybody = added(values, b'{"user_id":[1,"ann"],"topic":"news"}', b'{"user_id":"*"}')
    numbers = EIGHT.numbers(["1", "ann", topic("news")])
    assert one.keys == [EIGHT.name(number) for number in numbers]
    assert len(everybody.entries) == 8
    with redis.Redis(port=valkey, db=2) as client:
        for key, entry in zip(one.keys, one.entries, strict=True):
            found: Any = client.xrange(key, entry, entry)
            assert found[0][1] == {b"payload": b'{"user_id":[1,"ann"],"topic":"news"}'}
    place = parse_place(one.place)
    assert place is not None
    assert [partition.number for partition in place.parts] == numbers


def test_in_a_cluster_each_entry_goes_to_the_master_of_its_key(three: Cluster) -> None:
    values = settings(redis_cluster=three.masters[0].address, redis_stream="keyed", stream_partitions=8)
    (one,) = added(values, b'{"user_id":"*"}')
    assert one.keys == [EIGHT.name(number) for number in range(8)]
    for key, entry in zip(one.keys, one.entries, strict=True):
        assert three.master_of(key).client.xrange(key, entry, entry)
