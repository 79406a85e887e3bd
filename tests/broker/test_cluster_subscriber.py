"""From a real cluster to the hub: slots that move, masters that come, go, freeze and disagree."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from redis.crc import key_slot
from structlog.testing import capture_logs

from tests.support.clusters import SLOTS, Cluster, cluster
from tests.support.inside import PATIENCE_SECONDS, Client, events, until
from tests.support.ports import free_port
from tests.support.rights import least_rights
from tests.support.subscribing import ByKey, by_key
from trio_sse.broker import cluster_subscriber as module
from trio_sse.delivery.targets import ALL, topic

MANY = [f"t{number}" for number in range(100)]


def slot_of(name: str) -> int:
    return key_slot(f"notifications:{name}".encode())


def seeds(nodes: Cluster) -> str:
    return ",".join(node.address for node in nodes.alive)


def serial_of(client: Client) -> list[int]:
    return [event.json()["n"] for event in events(client.received) if event.event == "message"]


def gaps_of(client: Client) -> list[str]:
    return [event.json()["reason"] for event in events(client.received) if event.event == "gap"]


async def connected(*clients: Client) -> None:
    await until(lambda: all("connected" in client.names for client in clients))


async def reaches(nodes: Cluster, name: str, client: Client, number: int) -> None:
    """What is published by this channel reaches the client."""
    nodes.publish(f"notifications:{name}", f'{{"n":{number}}}')
    await until(lambda: number in serial_of(client))


def user_at(nodes: Cluster, number: int) -> str:
    """A user whose channel this master serves, where that of all is at another one."""
    node = nodes.masters[number]
    return next(f"u{one}" for one in range(1000) if nodes.master_of(f"notifications:user:u{one}") is node)


def elsewhere(nodes: Cluster) -> int:
    """The number of a master that does not serve the channel of all."""
    node = nodes.master_of("notifications:all")
    return next(number for number, one in enumerate(nodes.masters) if one is not node and one.pid)


async def test_a_stream_over_all_shards_begins_when_all_are_subscribed(three: Cluster) -> None:
    async with by_key(redis_cluster=seeds(three)) as service:
        client = service.join("ann", MANY)
        assert client.names == []
        await connected(client)
        for number, name in enumerate(["user:ann", "all", *(f"topic:{name}" for name in MANY)]):
            three.publish(f"notifications:{name}", f'{{"n":{number}}}')
        await until(lambda: len(serial_of(client)) == 102)
        assert sorted(serial_of(client)) == list(range(102))
        assert gaps_of(client) == []
        assert service.subscriber.problem is None
        service.leave(client)


async def test_one_node_is_enough_to_find_the_others(three: Cluster) -> None:
    async with by_key(redis_cluster=three.masters[2].address) as service:
        clients = [service.join(user_at(three, number)) for number in range(3)]
        await connected(*clients)
        for number, client in enumerate(clients):
            await reaches(three, f"user:{user_at(three, number)}", client, number)


async def test_names_in_braces_and_of_any_alphabet(three: Cluster) -> None:
    async with by_key(redis_cluster=seeds(three)) as service:
        names = ["a{x}b", "{x}", "a{}", "{", "Zoë 李", "}{"]
        client = service.join("{x}é", names)
        await connected(client)
        for number, name in enumerate(["user:{x}é", *(f"topic:{name}" for name in names)]):
            await reaches(three, name, client, number)


async def test_slots_that_move_are_followed_and_only_their_users_are_told(three: Cluster) -> None:
    quiet, moved = user_at(three, elsewhere(three)), ""
    number = elsewhere(three)
    moved = next(
        f"m{one}"
        for one in range(1000)
        if three.master_of(f"notifications:user:m{one}") is three.masters[number]
        and slot_of(f"user:m{one}") != slot_of(f"user:{quiet}")
    )
    target = three.masters[(number + 1) % 3]
    async with by_key(redis_cluster=seeds(three)) as service:
        one, other = service.join(moved), service.join(quiet)
        await connected(one, other)
        slot = slot_of(f"user:{moved}")
        three.move(slot, target)
        await until(lambda: gaps_of(one) == ["redis_reconnected"])
        await reaches(three, f"user:{moved}", one, 1)
        await reaches(three, f"user:{quiet}", other, 2)
        assert gaps_of(other) == []
        assert service.reconnects == 0


async def test_who_joins_while_slots_move_is_subscribed_at_the_right_one(three: Cluster) -> None:
    """MOVED says where, before anybody has looked."""
    async with by_key(redis_cluster=seeds(three)) as service:
        first = service.join("first")
        await connected(first)
        slots = {name: slot_of(f"topic:{name}") for name in MANY}
        clients = []
        for number, name in enumerate(MANY[:30]):
            target = three.masters[number % 3]
            three.move(slots[name], target)
            clients.append(service.join(None, [name]))
        await connected(*clients)
        for number, (name, client) in enumerate(zip(MANY, clients, strict=False)):
            await reaches(three, f"topic:{name}", client, number)


async def test_leaving_a_channel_whose_slot_has_moved_costs_nobody_anything(three: Cluster) -> None:
    """SUNSUBSCRIBE is answered by MOVED."""
    async with by_key(redis_cluster=seeds(three)) as service:
        stays = service.join("stays")
        await connected(stays)
        for turn in range(5):
            leaves = service.join(f"leaves{turn}")
            await connected(leaves)
            service.leave(leaves)
            slot = slot_of(f"user:leaves{turn}")
            shard = service.interest._shard_of(f"leaves{turn}")
            service.interest._history._clock = lambda: trio.current_time() + 1000
            service.interest.expire()
            service.interest._history._clock = trio.current_time
            assert f"leaves{turn}" in shard.drop
            now = three.master_of(f"notifications:user:leaves{turn}")
            three.move(slot, next(one for one in three.masters if one is not now))
            await until(lambda shard=shard: not shard.drop)  # type: ignore[misc]
        await reaches(three, "user:stays", stays, 1)
        assert gaps_of(stays) == []
        assert service.reconnects == 0


async def test_a_lost_link_touches_the_users_of_its_shard_alone(three: Cluster) -> None:
    number = elsewhere(three)
    all_at = three.masters.index(three.master_of("notifications:all"))
    async with by_key(redis_cluster=seeds(three)) as service:
        touched, others = service.join(user_at(three, number)), service.join(user_at(three, all_at))
        both = service.join(user_at(three, all_at), ["x"])
        await connected(touched, others, both)
        three.masters[number].client.client_kill_filter(_type="pubsub")
        await until(lambda: gaps_of(touched) == ["redis_reconnected"])
        await reaches(three, f"user:{user_at(three, number)}", touched, 1)
        assert gaps_of(others) == []
        assert service.subscriber.problem is None
        # The shard of the channel for all touches all.
        three.masters[all_at].client.client_kill_filter(_type="pubsub")
        await until(lambda: gaps_of(others) == ["redis_reconnected"])
        await until(lambda: len(gaps_of(touched)) == 2)


async def test_slots_that_nobody_serves_are_taken_up_when_somebody_does(three: Cluster) -> None:
    number = elsewhere(three)
    user = user_at(three, number)
    slot = slot_of(f"user:{user}")
    other = user_at(three, (number + 1) % 3)
    for node in three.masters:
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    try:
        async with by_key(redis_cluster=seeds(three)) as service:
            one, two = service.join(user), service.join(other)
            await connected(one, two)
            for node in three.masters:
                node.call("CLUSTER", "DELSLOTS", slot)
            await until(lambda: service.interest._shard_of(user).refuses or _nowhere(service, user))
            late = service.join(user)
            await connected(late)
            await reaches(three, f"user:{other}", two, 1)
            three.masters[number].call("CLUSTER", "ADDSLOTS", slot)
            three.wait_until_well()
            await until(lambda: gaps_of(one) == gaps_of(late) == ["redis_reconnected"])
            await reaches(three, f"user:{user}", one, 2)
            assert gaps_of(two) == []
    finally:
        for node in three.masters:
            node.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")


def _nowhere(service: ByKey, target: str) -> bool:
    assert service.cluster is not None
    return service.interest._shard_of(target) not in service.cluster.masters.values()


async def test_a_frozen_master_is_waited_for_by_its_own_users_alone(three: Cluster) -> None:
    number = elsewhere(three)
    node = three.masters[number]
    here, other = user_at(three, number), user_at(three, (number + 1) % 3)
    async with by_key(redis_cluster=seeds(three)) as service:
        one = service.join(other)
        await connected(one)
        node.freeze()
        try:
            stuck = service.join(here)
            late = service.join(f"{other}{other}", [])
            # At its master itself: `publish` may ask the frozen one who that is.
            three.masters[(number + 1) % 3].call("SPUBLISH", f"notifications:user:{other}", '{"n":1}')
            await until(lambda: serial_of(one) == [1])
            assert stuck.names == []
        finally:
            node.thaw()
        await connected(stuck, late)
        three.wait_until_well()
        assert gaps_of(one) == []


async def test_a_master_that_dies_is_followed_by_its_replica_and_nodes_come_and_go() -> None:
    with cluster(3, 1) as own:
        async with by_key(redis_cluster=seeds(own)) as service:
            number = elsewhere(own)
            users = [user_at(own, one) for one in range(3)]
            clients = [service.join(user) for user in users]
            await connected(*clients)
            await trio.to_thread.run_sync(own.kill_master, own.masters[number])
            await until(lambda: gaps_of(clients[number]) == ["redis_reconnected"])
            for serial, (user, client) in enumerate(zip(users, clients, strict=True)):
                await reaches(own, f"user:{user}", client, serial)
            untouched = [client for one, client in enumerate(clients) if one != number]
            assert [gaps_of(client) for client in untouched] == [[], []]

            new = own.add_master()
            moving = slot_of(f"user:{users[number]}")
            own.move(moving, new)
            await until(lambda: len(gaps_of(clients[number])) == 2)
            await reaches(own, f"user:{users[number]}", clients[number], 10)

            back = next(node for node in own.masters if node.pid and node is not new)
            own.move(moving, back)
            await until(lambda: len(gaps_of(clients[number])) == 3)
            own.wait_until_well()
            await reaches(own, f"user:{users[number]}", clients[number], 11)
            await until(lambda: service.cluster and ("127.0.0.1", new.port) not in service.cluster.masters)


async def test_without_a_cluster_the_setting_is_named(port: int) -> None:
    async with by_key(redis_cluster=f"127.0.0.1:{port}") as service:
        assert "REDIS_CLUSTER names a Redis that is no cluster" in (service.subscriber.problem or "")
        assert service.subscriber.problem_code == "redis_refused"
        ann = service.join("ann")
        assert ann.names == ["connected"]
    async with by_key(redis_cluster=f"127.0.0.1:{free_port()}") as service:
        assert "REDIS_CLUSTER" in (service.subscriber.problem or "")
        assert service.subscriber.problem_code == "redis_unreachable"


@pytest.mark.parametrize("turns", range(0, 45, 3))
async def test_it_ends_whenever_it_is_cancelled_and_nobody_waits(three: Cluster, turns: int) -> None:
    service = ByKey(redis_cluster=seeds(three))
    ann = service.join("ann", MANY)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.subscriber.run)
            await trio.sleep(turns * 0.001)
            bob = service.join("bob")
            nursery.cancel_scope.cancel()
    assert ann.names[:1] == bob.names[:1] == ["connected"]
    assert not service.interest._begins
    assert not service.interest._waiting


Answers = Callable[["Fake", list[bytes]], bytes]


class Fake:
    """A node that answers as it is told to: what no real one would say at will."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers: dict[bytes, Callable[[list[bytes]], bytes]] = {}
        self.asked: list[list[bytes]] = []
        self.state = b"ok"
        self.slots = b"*0\r\n"
        self.streams: list[trio.SocketStream] = []
        self.refusal: Callable[[bytes], bytes] | None = None
        """What is answered to SSUBSCRIBE for this channel, instead of a confirmation."""

    async def run(self, *, task_status: Any) -> None:
        await trio.serve_tcp(self._serve, self.port, host="127.0.0.1", task_status=task_status)

    async def _serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        self.streams.append(stream)
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                buffer += data
                while (command := _command(buffer)) is not None:
                    parts, buffer = command
                    await stream.send_all(self._answer(parts))

    def _answer(self, parts: list[bytes]) -> bytes:
        self.asked.append(parts)
        name = parts[0].upper()
        if name == b"CLUSTER":
            info = b"cluster_state:%b" % self.state
            return self.slots if parts[1].upper() == b"SLOTS" else b"$%d\r\n%b\r\n" % (len(info), info)
        if name == b"ROLE":
            return b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
        if name == b"SSUBSCRIBE":
            if self.refusal is not None and (refused := self.refusal(parts[1])):
                return refused
            return b"*3\r\n$10\r\nssubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(parts[1]), parts[1])
        return b"+OK\r\n"

    async def publish(self, channel: bytes, payload: bytes) -> None:
        """Hand it to whoever is connected."""
        for stream in self.streams:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(
                    b"*3\r\n$8\r\nsmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
                    % (len(channel), channel, len(payload), payload)
                )

    @property
    def subscribed(self) -> list[bytes]:
        return [parts[1] for parts in self.asked if parts[0].upper() == b"SSUBSCRIBE"]


def _command(buffer: bytes) -> tuple[list[bytes], bytes] | None:
    """The first command in RESP, and what is behind it."""
    lines = buffer.split(b"\r\n")
    if not buffer.startswith(b"*") or len(lines) < 2:
        return None
    count = int(lines[0][1:])
    if len(lines) < 2 * count + 2:
        return None
    return lines[2 : 2 * count + 1 : 2], b"\r\n".join(lines[2 * count + 1 :])


def slots(*ranges: tuple[int, int, bytes, *tuple[int, ...]]) -> bytes:
    """First, last, host, the port of the master and those of its replicas."""
    rows = [
        b"*%d\r\n:%d\r\n:%d\r\n" % (2 + len(ports), first, last)
        + b"".join(b"*2\r\n$%d\r\n%b\r\n:%d\r\n" % (len(host), host, port) for port in ports)
        for first, last, host, *ports in ranges
    ]
    return b"*%d\r\n" % len(rows) + b"".join(rows)


HOST = b"127.0.0.1"
HALF = SLOTS // 2


@asynccontextmanager
async def fakes(number: int) -> AsyncIterator[list[Fake]]:
    async with trio.open_nursery() as nursery:
        found = [Fake() for _ in range(number)]
        for fake in found:
            await nursery.start(partial(_run, fake))
        yield found
        nursery.cancel_scope.cancel()


async def _run(fake: Fake, *, task_status: Any) -> None:
    await fake.run(task_status=task_status)


async def test_a_node_without_a_name_of_its_own_is_where_it_was_asked() -> None:
    async with fakes(2) as (a, b):
        a.slots = b.slots = slots((0, HALF - 1, b"", a.port), (HALF, SLOTS - 1, b"", b.port))
        a.refusal = lambda channel: (
            b"-MOVED %d :%d\r\n" % (key_slot(channel), b.port) if channel.endswith(b"moved") else b""
        )
        async with by_key(redis_cluster=f"localhost:{a.port}") as service:
            ann = service.join("ann", MANY)
            await connected(ann)
            moved = next(f"{one}-moved" for one in range(99) if slot_of(f"topic:{one}-moved") < HALF)
            late = service.join(None, [moved])
            await connected(late)
            assert f"notifications:topic:{moved}".encode() in b.subscribed
            assert service.cluster is not None
            assert {host for host, _ in service.cluster.masters} == {"localhost"}


async def test_what_a_frozen_master_passes_on_to_its_replica_comes_once() -> None:
    """It wakes and carries out what it was sent meanwhile; then the service moves, and the replica has it
    too."""
    async with fakes(2) as (a, b):
        a.slots = b.slots = slots((0, SLOTS - 1, HOST, a.port, b.port))
        channel = b"notifications:user:ann"
        async with by_key(redis_cluster=f"127.0.0.1:{a.port}") as service:
            ann = service.join("ann")
            await connected(ann)
            await a.publish(channel, b'{"n":1}')
            await until(lambda: serial_of(ann) == [1])
            a.slots = b.slots = slots((0, SLOTS - 1, HOST, b.port, a.port))
            assert isinstance(service.subscriber, module.ClusterSubscriber)
            service.subscriber._look.set()
            await until(lambda: gaps_of(ann) == ["redis_reconnected"])
            await b.publish(channel, b'{"n":1}')
            await b.publish(channel, b'{"n":2}')
            await until(lambda: 2 in serial_of(ann))
            assert serial_of(ann) == [1, 2]
            assert gaps_of(ann) == ["redis_reconnected"] * 2  # it could be another one with the same text
            assert ann.names[-1] == "message"


async def test_masters_that_disagree_are_not_asked_round_and_round() -> None:
    """Each says that the other one serves the slot."""
    async with fakes(2) as (a, b):
        a.slots = b.slots = slots((0, HALF - 1, HOST, a.port), (HALF, SLOTS - 1, HOST, b.port))
        for one, other in ((a, b), (b, a)):
            one.refusal = lambda channel, other=other: (
                b"-MOVED %d 127.0.0.1:%d\r\n" % (key_slot(channel), other.port)
                if channel.endswith(b"torn")
                else b""
            )
        async with by_key(redis_cluster=f"127.0.0.1:{a.port}") as service:
            ann = service.join("ann")
            await connected(ann)
            torn = service.join("torn")
            await connected(torn)  # it does not wait
            asked = len(a.subscribed) + len(b.subscribed)
            await trio.sleep(1.2)
            assert len(a.subscribed) + len(b.subscribed) - asked < 12
            a.refusal = b.refusal = None
            await until(lambda: gaps_of(torn) == ["redis_reconnected"])
            assert gaps_of(ann) == []


async def test_a_topology_that_is_empty_or_stale_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "SOON_SECONDS", 0.05)
    async with fakes(2) as (a, b):
        whole = slots((0, HALF - 1, HOST, a.port), (HALF, SLOTS - 1, HOST, b.port))
        a.slots = b.slots = whole
        async with by_key(redis_cluster=f"127.0.0.1:{a.port},127.0.0.1:{b.port}") as service:
            ann = service.join("ann", MANY)
            await connected(ann)
            assert service.cluster is not None
            before = dict(service.cluster.masters)
            looks = len(a.asked)
            a.slots, a.state = b"*0\r\n", b"fail"  # made anew, it knows of no other
            await until(lambda: len(a.asked) > looks + 10)
            b.state = b"fail"  # of two that are in doubt, the one that knows of more
            await until(lambda: len(a.asked) > looks + 20)
            a.slots = slots((0, HALF // 2, HOST, a.port))
            await until(lambda: len(a.asked) > looks + 30)
            assert service.cluster.masters == before
            assert gaps_of(ann) == []
            a.slots = b"*0\r\n"
            await until(lambda: len(a.asked) > looks + 40)
            b.slots = b"*0\r\n"
            looks = len(a.asked)
            await until(lambda: len(a.asked) > looks + 10)
            assert service.cluster.masters == before
            assert gaps_of(ann) == []


async def test_a_cluster_that_was_never_made_is_named() -> None:
    async with fakes(1) as (a,):
        a.state = b"fail"
        with capture_logs() as lines:
            async with by_key(redis_cluster=f"127.0.0.1:{a.port}") as service:
                assert "the cluster at REDIS_CLUSTER is not complete" in (service.subscriber.problem or "")
                await until(lambda: len(a.asked) > 6)
        assert [line["event"] for line in lines] == ["no Redis, trying again"]


async def test_a_slow_answer_keeps_its_own_streams_waiting_alone() -> None:
    async with fakes(2) as (a, b):
        a.slots = b.slots = slots((0, HALF - 1, HOST, a.port), (HALF, SLOTS - 1, HOST, b.port))
        where = {False: b, True: a}
        all_low = slot_of("all") < HALF
        slow = where[not all_low]
        slow.refusal = lambda channel: b":1\r\n" if channel.endswith(b"slow") else b""  # no answer yet
        names = [f"{one}-slow" for one in range(99) if (slot_of(f"user:{one}-slow") < HALF) is not all_low]
        async with by_key(redis_cluster=f"127.0.0.1:{a.port}") as service:
            waits, goes = service.join(names[0]), service.join("goes")
            await connected(goes)
            assert waits.names == []
            shard = service.interest._shard_of(names[0])
            assert names[0] in shard.asked or names[0] in shard.queue
            service.leave(waits)
            assert not service.interest._begins
            assert topic("*") == ALL


async def test_the_rights_that_the_docs_name_are_enough(three: Cluster) -> None:
    for node in three.masters:
        node.call("ACL", "SETUSER", "least", "on", ">pw", *least_rights("+sunsubscribe"))
    async with by_key(redis_cluster=seeds(three), redis_username="least", redis_password="pw") as service:
        ann = service.join("ann", MANY)
        await connected(ann)
        service.leave(ann)
        service.interest._history._clock = lambda: trio.current_time() + 1000
        service.interest.expire()
        await until(lambda: not any(three.publish(f"notifications:topic:{name}", "{}") for name in MANY))
        await until(lambda: len(service.interest) == 1)
        assert service.reconnects == 0
        assert service.subscriber.problem is None
