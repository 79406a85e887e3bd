"""One partition of the log, from the node of a cluster that has it."""

from __future__ import annotations

import trio
from redis.crc import key_slot

from tests.support.clusters import Cluster, cluster
from tests.support.inside import events, until
from tests.support.partitioned import LAYOUT, connected, log_in, partitioned

USER, TOPICS = "42", [f"t{number}" for number in range(6)]


def seeds(nodes: Cluster) -> tuple[str, ...]:
    return tuple(node.address for node in nodes.alive)


async def test_each_partition_is_read_where_it_is(three: Cluster) -> None:
    log = log_in(three, LAYOUT)
    async with partitioned(redis_cluster=seeds(three)) as running:
        client = running.join(USER, TOPICS)
        await connected(client)
        for topic in TOPICS:
            log.add(topics=[topic])
        log.add([USER], TOPICS)
        log.add()
        await until(lambda: sorted(client.numbers) == list(range(1, 9)))
        again = running.join(USER, TOPICS, last_event_id=events(client.received)[3].id)
        await until(lambda: len(again.numbers) == 5)
        assert client.notices == again.notices == ["connected"]


async def test_one_that_moves_is_followed_without_a_gap(three: Cluster) -> None:
    log = log_in(three, LAYOUT)
    name = LAYOUT.name(LAYOUT.of(USER))
    async with partitioned(redis_cluster=seeds(three)) as running:
        client = running.join(USER)
        await connected(client)
        for turn in range(4):
            log.add([USER])
            target = next(node for node in three.masters if node is not three.master_of(name))
            await trio.to_thread.run_sync(three.move, key_slot(name.encode()), target)
            log.add([USER])
            await until(lambda turn=turn: client.numbers == list(range(1, 2 * turn + 3)))  # type: ignore[misc]
        assert client.notices == ["connected"]


async def test_a_master_that_dies_is_followed_by_its_replica() -> None:
    with cluster(3, 1) as own:
        log = log_in(own, LAYOUT)
        name = LAYOUT.name(LAYOUT.of(USER))
        async with partitioned(redis_cluster=seeds(own)) as running:
            client = running.join(USER, TOPICS)
            await connected(client)
            log.add([USER], TOPICS)
            await until(lambda: client.numbers == [1])
            own.master_of(name).call("WAIT", 1, 5000)
            await trio.to_thread.run_sync(own.kill_master, own.master_of(name))
            log.add([USER])
            await until(lambda: client.numbers == [1, 2])
            assert client.notices == ["connected"]
            assert running.service.not_ready() is None
