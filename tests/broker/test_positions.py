"""The place that stands for now, asked of a real Redis and of a real cluster."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import trio
import trio_asyncio
from redis.crc import key_slot

from tests.support.clusters import Cluster
from tests.support.inside import settings
from tests.support.valkeys import breakable
from trio_sse.broker.channels import Channels
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.positions import Positions
from trio_sse.broker.publisher import UnavailableError
from trio_sse.broker.topology import look
from trio_sse.delivery.partitions import Layout, Partition, Partitioning, parse_place
from trio_sse.delivery.targets import topic


@pytest.fixture
def log() -> Partitioning:
    name = secrets.token_hex(4)
    return Partitioning([Layout(name, 8), Layout(f"{name}-old", 0)])


@asynccontextmanager
async def running(
    log: Partitioning, nodes: ClusterMap | None = None, **values: Any
) -> AsyncIterator[Positions]:
    async with trio.open_nursery() as nursery:
        positions = Positions(settings(**values), log, nodes)
        await nursery.start(positions.run)
        yield positions
        nursery.cancel_scope.cancel()


def at(port: int) -> dict[str, Any]:
    return {"redis_host": "127.0.0.1", "redis_port": port}


async def ask(positions: Positions, *targets: str) -> dict[Partition, object]:
    place = parse_place(await positions.ask(positions.partitions(targets or None)))
    assert place is not None
    assert place.published
    return dict(place.parts)


async def test_it_is_the_last_id_of_the_partitions_of_whom_one_asks_for(
    valkey: int, log: Partitioning
) -> None:
    new, old = log.layouts
    ann, news = Partition(8, new.of("ann")), Partition(8, new.of(topic("news")))
    assert ann != news
    with redis.Redis(port=valkey, db=1) as back_end:
        back_end.xadd(log.key(ann), {"payload": "{}"}, id="1700000000000-0")
        back_end.xadd(log.key(ann), {"payload": "{}"}, id="1700000000001-2")
        back_end.xtrim(log.key(ann), maxlen=0)
        back_end.xadd(old.key, {"payload": "{}"}, id="1600000000000-0")
        async with running(log, **at(valkey)) as positions:
            assert await ask(positions, "ann") == {
                ann: (1700000000001, 2),
                Partition(0, 0): (1600000000000, 0),
            }
            back_end.xadd(log.key(news), {"payload": "{}"}, id="1700000000005-0")
            found = await ask(positions, "ann", topic("news"), "ann")
            assert found == {
                ann: (1700000000001, 2),
                Partition(0, 0): (1600000000000, 0),
                news: (1700000000005, 0),
            }
            everything = await ask(positions)
    assert {one.number for one in everything if one.of == 8} == {*range(8)}
    assert everything.items() >= found.items()
    assert sum(entry == (0, 0) for entry in everything.values()) == 6  # there is no such key yet


async def test_a_link_that_was_closed_meanwhile_is_no_error(valkey: int, log: Partitioning) -> None:
    async with running(log, **at(valkey)) as positions:
        before = await ask(positions)
        with redis.Redis(port=valkey) as admin:
            admin.client_kill_filter(_type="normal")
        assert await ask(positions) == before


async def test_a_redis_that_is_away_is_told_in_a_line(log: Partitioning) -> None:
    with breakable() as own:
        async with running(log, **at(own.port)) as positions:
            await ask(positions, "ann")
            own.kill()
            for _ in range(2):
                with pytest.raises(UnavailableError, match="REDIS_PORT"):
                    await ask(positions, "ann")
            own.start()
            await ask(positions, "ann")


async def test_a_key_that_is_no_stream_is_told_in_a_line(valkey: int, log: Partitioning) -> None:
    with redis.Redis(port=valkey, db=1) as back_end:
        back_end.set(log.layouts[1].key, "text")
    async with running(log, **at(valkey)) as positions:
        with pytest.raises(UnavailableError, match="SSE_REDIS_STREAM must name a stream"):
            await ask(positions, "ann")


async def test_before_it_runs_and_after_there_is_no_answer(valkey: int, log: Partitioning) -> None:
    async with running(log, **at(valkey)) as positions:
        pass
    with pytest.raises(UnavailableError):
        await ask(positions, "ann")


async def test_in_a_cluster_each_master_is_asked_for_its_own_and_moved_slots_are_found(
    three: Cluster, log: Partitioning
) -> None:
    address = three.masters[0].address
    values: Any = {"redis_cluster": address, "redis_stream": "n", "stream_partitions": 8}
    nodes = ClusterMap(Channels("n").of)
    new = log.layouts[0]
    keys = [new.name(number) for number in range(8)]
    assert len({three.master_of(key).port for key in keys}) == 3
    three_of_them = {number: (1700000000000 + number, 0) for number in range(8)}
    async with running(log, nodes, **values) as positions:
        with pytest.raises(UnavailableError, match="no master"):  # it knows of none yet
            await ask(positions)
        async with trio_asyncio.open_loop():
            nodes.learn((await trio_asyncio.aio_as_trio(look)(settings(**values))).ranges)
        for number, key in enumerate(keys):
            three.master_of(key).client.xadd(key, {"payload": "{}"}, id=f"{1700000000000 + number}-0")
        everything = await ask(positions)
        assert {one.number: entry for one, entry in everything.items() if one.of == 8} == three_of_them
        empty = keys[0]
        home = three.master_of(empty)
        home.client.delete(empty)
        other = next(node for node in three.masters if node is not home)
        three.move(key_slot(empty.encode()), other)
        other.client.xadd(empty, {"payload": "{}"}, id="1700000000009-0")
        for _ in range(2):
            everything = await ask(positions)
            assert everything[Partition(8, 0)] == (1700000000009, 0)
