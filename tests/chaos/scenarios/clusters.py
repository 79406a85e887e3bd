"""A cluster: slots that move, masters that die or freeze, nodes that come and go."""

from __future__ import annotations

from functools import partial

import trio
from redis.crc import key_slot

from tests.chaos.bench import Bench
from tests.chaos.publisher import LAYOUT, copies
from tests.chaos.scenario import scenario
from tests.chaos.scenarios.service_gone import start_again
from tests.support.clusters import Node

FROZEN_SECONDS = 3
"""Longer than the cluster waits until a replica takes over."""

LATE_SECONDS = 1


async def move(bench: Bench, share: int, node: Node) -> None:
    """Move the slots of every so many users and topics, and those of everybody, to another node."""
    if bench.source == "cluster log":
        names = [LAYOUT.name(one.number) for one in LAYOUT.all[::share]]
    else:
        keys = [*bench.users[::share], *bench.topics[::share], "*"]
        names = [copies((key,), "{}")[0][0] for key in keys]
    for name in names:
        slot = key_slot(name.encode())
        await trio.to_thread.run_sync(bench.cluster.move, slot, node)


async def until_well(bench: Bench) -> None:
    await trio.to_thread.run_sync(bench.cluster.wait_until_well)


@scenario("slots moved between the masters of a cluster", "cluster", "cluster log")
async def slots_moved(bench: Bench) -> None:
    await bench.assemble_cluster()
    for turn in range(2 if bench.quick else 8):
        await bench.traffic(0.4)
        await move(bench, 1 + turn % 3, bench.cluster.masters[turn % 3])
        await bench.flows_again()


@scenario("a master of a cluster killed, its replica takes over", "cluster", "cluster log", quick=False)
async def master_killed(bench: Bench) -> None:
    await bench.assemble_cluster()
    for number in range(1 if bench.quick else 2):
        await bench.traffic(0.5)
        await trio.to_thread.run_sync(bench.cluster.kill_master, bench.cluster.masters[number])
        await bench.flows_again()


@scenario("nodes added to a cluster and taken away", "cluster", "cluster log", quick=False)
async def nodes_come_and_go(bench: Bench) -> None:
    await bench.assemble_cluster()
    for turn in range(1 if bench.quick else 3):
        await bench.traffic(0.4)
        node = await trio.to_thread.run_sync(bench.cluster.add_master)
        await move(bench, 2, node)
        await bench.flows_again()
        await bench.traffic(0.4)
        await move(bench, 2, bench.cluster.masters[turn % 3])
        await until_well(bench)
        node.kill()
        await bench.flows_again()


@scenario(
    f"a master of a cluster frozen (SIGSTOP) for {FROZEN_SECONDS} s, its replica takes over",
    "cluster",
    "cluster log",
    quick=False,
)
async def shard_frozen(bench: Bench) -> None:
    await bench.assemble_cluster()
    # One that wakes may hand on what its replica gets by then, and not what it got before, until the service
    # knows that it was replaced.
    bench.ledger.late_gaps = LATE_SECONDS
    for number in range(1 if bench.quick else 2):
        await bench.traffic(0.4)
        node = bench.cluster.masters[number]
        node.freeze()
        await bench.traffic(FROZEN_SECONDS)
        node.thaw()
        await until_well(bench)
        await bench.flows_again()


@scenario("CLIENT KILL of the service's connection to one master of a cluster", "cluster", "cluster log")
async def shard_cut_off(bench: Bench) -> None:
    await bench.assemble_cluster()
    for number in range(3 if bench.quick else 9):
        await bench.traffic(0.3)
        kind = "pubsub" if bench.source == "cluster" else "normal"
        kill = partial(bench.cluster.masters[number % 3].call, "CLIENT", "KILL", "TYPE", kind)
        await trio.to_thread.run_sync(kill)
        await bench.flows_again()


@scenario("the service at a cluster killed and started again", "cluster", "cluster log", quick=False)
async def service_at_cluster_killed(bench: Bench) -> None:
    await bench.assemble_cluster()
    for _ in range(1 if bench.quick else 4):
        await bench.traffic(0.5 if bench.quick else 2)
        service = bench.services[-1]
        service.process.kill()
        await start_again(bench, service)
        await bench.flows_again()
