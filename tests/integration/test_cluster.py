"""REDIS_CLUSTER, by each command: sharded channels of a real cluster of three masters and three replicas."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from redis.crc import key_slot

from tests.support.client import Stream, eventually, streaming
from tests.support.clusters import Cluster, Node, cluster
from tests.support.process import Service, Services
from tests.support.variants import COMMANDS

pytestmark = pytest.mark.integration

PREFIX = "notes"
NAMES = [f"t{number}" for number in range(100)]


@pytest.fixture
def masters() -> Iterator[Cluster]:
    with cluster(3) as three:
        yield three


@pytest.fixture
def replicated() -> Iterator[Cluster]:
    with cluster(3, 1) as six:
        yield six


def start_at(start: Services, nodes: Cluster, **settings: str) -> list[Service]:
    common: dict[str, Any] = {
        "SSE_REDIS_ROUTING": "by-key",
        "REDIS_CLUSTER": ",".join(node.address for node in nodes.alive[:2]),
        "SSE_REDIS_CHANNEL": PREFIX,
        "REDIS_HOST": None,
        "REDIS_PORT": None,
        **settings,
    }
    return start.each(COMMANDS, **common)


def node_of(nodes: Cluster, user: str) -> Node:
    return nodes.master_of(f"{PREFIX}:user:{user}")


def users_by_node(nodes: Cluster) -> dict[int, str]:
    """A user at each master, by its number."""
    found: dict[int, str] = {}
    for one in range(1000):
        number = nodes.masters.index(node_of(nodes, f"u{one}"))
        found.setdefault(number, f"u{one}")
        if len(found) == 3:
            return dict(sorted(found.items()))
    raise LookupError


def all_at(nodes: Cluster) -> int:
    return nodes.masters.index(nodes.master_of(f"{PREFIX}:all"))


def slot_of(user: str) -> int:
    return key_slot(f"{PREFIX}:user:{user}".encode())


@contextlib.asynccontextmanager
async def opened(services: list[Service], users: dict[int, str]) -> AsyncIterator[dict[int, list[Stream]]]:
    """For each user a stream of each service."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            number: [await stack.enter_async_context(streaming(service.port, user)) for service in services]
            for number, user in users.items()
        }


async def told(streams: list[Stream]) -> None:
    for stream in streams:
        event = await stream.next_but_heartbeats()
        assert event.name == "gap", event
        assert event.json == {"reason": "redis_reconnected", "dropped": None}


async def gets(nodes: Cluster, user: str, streams: list[Stream], n: int) -> None:
    """What is published for this user is the next thing that these streams get."""
    receivers = await trio.to_thread.run_sync(nodes.publish, f"{PREFIX}:user:{user}", f'{{"n":{n}}}')
    assert receivers == len(streams)
    for stream in streams:
        assert (await stream.notification())["n"] == n


async def gets_at_last(nodes: Cluster, user: str, streams: list[Stream], first: int) -> None:
    """The same, when all have followed. There may be gaps before."""
    channel = f"{PREFIX}:user:{user}"
    for n in range(first, first + 100):
        if await trio.to_thread.run_sync(nodes.publish, channel, f'{{"n":{n}}}') == len(streams):
            break
        await trio.sleep(0.1)
    for stream in streams:
        await stream.until(lambda event: event.name == "message" and event.json["n"] == n)


async def test_what_is_published_right_after_connected_arrives_on_every_shard(
    start: Services, masters: Cluster
) -> None:
    services = start_at(start, masters)
    for turn in range(20):
        async with opened(services, {0: f"u{turn}"}) as streams:
            await gets(masters, f"u{turn}", streams[0], turn)
    target = "/sse?user_id=ann&" + "&".join(f"topic={name}" for name in NAMES)
    for service in services:
        async with streaming(service.port, target=target) as stream:
            for n, name in enumerate(NAMES):
                assert masters.publish(f"{PREFIX}:topic:{name}", f'{{"n":{n}}}') >= 1
            assert sorted([(await stream.notification())["n"] for _ in NAMES]) == list(range(100))
    assert "Traceback" not in services[0].log


async def test_slots_that_move_under_load_lose_nothing_in_silence(start: Services, masters: Cluster) -> None:
    """What is missing is behind a gap; who has no slot there is told nothing."""
    services = start_at(start, masters)
    users = users_by_node(masters)
    moving = next(number for number in users if number != all_at(masters))
    target = masters.masters[(moving + 1) % 3]
    slot = slot_of(users[moving])
    async with opened(services, users) as streams:
        for n in range(60):
            for user in users.values():
                masters.publish(f"{PREFIX}:user:{user}", f'{{"n":{n}}}')
            if n == 20:
                masters.move(slot, target)
        for number, of_one in streams.items():
            for stream in of_one:
                await _accounts_for(masters, users[number], stream, touched=number == moving)


async def _accounts_for(nodes: Cluster, user: str, stream: Stream, *, touched: bool) -> None:
    """The numbers come in order, those that are missing behind a gap, up to one that is published now."""
    expected, excused, gaps = 0, False, 0
    last = 1000
    while True:
        if last == 1000 or excused:
            last += 1
            nodes.publish(f"{PREFIX}:user:{user}", f'{{"n":{last}}}')
        with trio.move_on_after(1):
            event = await stream.next_but_heartbeats()
            if event.name == "gap":
                assert event.json["reason"] == "redis_reconnected"
                excused, gaps = True, gaps + 1
                continue
            n = event.json["n"]
            if n > 1000:
                assert excused or expected == 60
                break
            assert n == expected or excused
            expected, excused = n + 1, False
            continue
        last = 1000  # lost on the way, as channels may: once more
    assert gaps == touched


async def test_a_killed_master_is_followed_by_its_replica(start: Services, replicated: Cluster) -> None:
    services = start_at(start, replicated)
    users = users_by_node(replicated)
    dies = next(number for number in users if number != all_at(replicated))
    async with opened(services, users) as streams:
        await trio.to_thread.run_sync(replicated.kill_master, replicated.masters[dies])
        await told(streams[dies])
        for number, user in users.items():
            await gets(replicated, user, streams[number], number)  # the others were told nothing
        for service in services:
            assert service.get("/readyz").status == 200


async def test_a_node_that_is_added_and_one_that_goes(start: Services, masters: Cluster) -> None:
    services = start_at(start, masters)
    users = users_by_node(masters)
    moving = next(number for number in users if number != all_at(masters))
    slot = slot_of(users[moving])
    async with opened(services, users) as streams:
        new = masters.add_master()
        for at, node in enumerate((new, masters.masters[moving])):
            masters.move(slot, node)
            await told(streams[moving])
            masters.wait_until_well()
            await gets_at_last(masters, users[moving], streams[moving], 100 * at)
        new.kill()
        await gets_at_last(masters, users[moving], streams[moving], 200)
        for number, user in users.items():
            if number != moving:
                await gets(masters, user, streams[number], 3)


async def test_a_link_that_is_cut_touches_its_own_users_alone(start: Services, masters: Cluster) -> None:
    services = start_at(start, masters)
    users = users_by_node(masters)
    cut = next(number for number in users if number != all_at(masters))
    async with opened(services, users) as streams:
        masters.masters[cut].client.client_kill_filter(_type="pubsub")
        await told(streams[cut])
        for number, user in users.items():
            await gets(masters, user, streams[number], number)


@pytest.mark.slow
async def test_a_shard_that_freezes_is_noticed_and_only_its_users_are_told(
    start: Services, masters: Cluster
) -> None:
    services = start_at(start, masters)
    users = users_by_node(masters)
    frozen = next(number for number in users if number != all_at(masters))
    async with opened(services, users) as streams:
        masters.masters[frozen].freeze()
        try:
            for service in services:
                await eventually(lambda service=service: "no answer" in service.log, "it is noticed", 40)  # type: ignore[misc]
            for number, user in users.items():
                if number != frozen:
                    for stream in streams[number]:
                        channel = f"{PREFIX}:user:{user}"
                        masters.masters[number].call("SPUBLISH", channel, '{"n":1}')
                        for other in streams[number]:
                            if other is stream:
                                assert (await stream.notification())["n"] == 1
                            else:
                                await other.notification()
        finally:
            masters.masters[frozen].thaw()
        await told(streams[frozen])
        masters.wait_until_well()
        await gets(masters, users[frozen], streams[frozen], 2)


async def test_an_acl_that_forbids_the_channels_is_one_clear_line(start: Services, masters: Cluster) -> None:
    for node in masters.masters:
        node.call("ACL", "SETUSER", "sse", "on", ">pw", "+@all", "resetchannels", f"&{PREFIX}:all")
    services = start_at(start, masters, REDIS_USERNAME="sse", REDIS_PASSWORD="pw")
    users = users_by_node(masters)
    frees = next(number for number in users if number != all_at(masters))
    async with opened(services, {0: users[frees]}) as streams:
        for service in services:
            await eventually(lambda service=service: "NOPERM" in service.log, "it is told")  # type: ignore[misc]
        await trio.sleep(2)
        for service in services:
            lines = [line for line in service.log.splitlines() if "NOPERM" in line]
            assert len(lines) == 1, service.log
            assert "SSE_REDIS_CHANNEL" in lines[0]
        for node in masters.masters:
            node.call("ACL", "SETUSER", "sse", f"&{PREFIX}:*")
        await told(streams[0])
        await gets(masters, users[frees], streams[0], 1)
