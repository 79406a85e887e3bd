"""What a node costs: one channel for all against channels by key, with 1 to 8 nodes on this machine.

    python benchmarks/scaling.py --streams 20000 --rate 5000 --nodes 1,2,4,8 --output try

Each node is a `trio-sse` process of its own; each stream has a user of its own, and belongs to one node.
Messages go to random users at a fixed rate, over one Valkey, or over a cluster of three. For each node:
messages decoded, CPU, memory; for each Redis: CPU and bytes sent; and the time from publishing to reading.
Everything shares the cores of this machine, so figures are per node and per message, and not a highest rate.
`scaling_model.py` computes the rest from the JSON that this writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from load import Load, Tools, load
from redis.crc import key_slot
from redis_server import ask, running_redis
from services import from_source, totals

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

WAYS = ("shared", "by-key", "cluster")
CHANNEL = "notes"
SECONDS = 8.0
SETTLE_SECONDS = 2.0


@dataclass
class Redises:
    """The Redis of a run, or the masters of its cluster."""

    settings: dict[str, str]
    ports: list[int]
    pids: list[int]
    port_of: Callable[[bytes], int]

    def info(self) -> dict[str, float]:
        """Commands, bytes sent and CPU seconds so far, of all together."""
        total = {"commands": 0.0, "bytes_out": 0.0, "cpu_s": 0.0}
        for port, pid in zip(self.ports, self.pids, strict=True):
            text = ask(port, "INFO", "stats").decode()
            facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            total["commands"] += float(facts["total_commands_processed"])
            total["bytes_out"] += float(facts["total_net_output_bytes"])
            total["cpu_s"] += machine.cpu_seconds(pid)
        return total


@contextlib.contextmanager
def redises(way: str, folder: Path) -> Iterator[Redises]:
    if way == "cluster":
        from tests.support.clusters import SLOTS, cluster

        with cluster(3) as three:
            nodes = ",".join(node.address for node in three.masters)
            ports = [three.masters[0].port] * SLOTS
            for slots, port in three.slots(three.masters[0]).items():
                ports[slots.start : slots.stop] = [port] * len(slots)

            def port_of(channel: bytes) -> int:
                return ports[key_slot(channel)]

            yield Redises(
                {"REDIS_CLUSTER": nodes},
                [node.port for node in three.masters],
                [node.pid for node in three.masters],
                port_of,
            )
        return
    with running_redis(folder, None) as redis:
        settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "SSE_REDIS_ROUTING": way}
        yield Redises(settings, [redis.port], [redis.pid], lambda _: redis.port)


@dataclass
class Node:
    """One process of the service, and the load client that holds its streams."""

    pid: int
    port: int
    users: list[str]
    client: Load | None = None

    def figures(self) -> dict[str, float]:
        return {"decoded": totals(self.port)["published"], "cpu_s": machine.cpu_seconds(self.pid)}


@contextlib.contextmanager
def node(number: int, streams: int, redis: Redises, folder: Path) -> Iterator[Node]:
    settings = {"SSE_REDIS_CHANNEL": CHANNEL, "SSE_LOG_LEVEL": "error", **redis.settings}
    with from_source(settings, folder) as (pid, port):
        yield Node(pid, port, [f"n{number}u{user}" for user in range(1, streams + 1)])


class Publisher:
    """Publishes at a rate, from one thread of control, and waits for no answer longer than it must."""

    def __init__(self, redis: Redises, way: str) -> None:
        self._redis = redis
        self._way = way
        self._sockets = {port: socket.create_connection(("127.0.0.1", port)) for port in redis.ports}
        self._sequences: dict[str, int] = {}
        self.late = 0.0
        """How late a batch began, in seconds at most."""

    def run(self, users: list[str], rate: float, seconds: float) -> int:
        """Returns how many were published."""
        began, sent = time.monotonic(), 0
        count = int(rate * seconds)
        while sent < count:
            elapsed = time.monotonic() - began
            due = min(count, int(elapsed * rate) + 1)
            self.late = max(self.late, elapsed - sent / rate)
            batches: dict[int, list[bytes]] = {}
            for number in range(sent, due):
                stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int((elapsed - number / rate) * 1e9)
                channel, payload = self._message(random.choice(users), stamp)
                batches.setdefault(self._redis.port_of(channel), []).append(self._command(channel, payload))
            for port, commands in batches.items():
                self._sockets[port].sendall(b"".join(commands))
                left = len(commands)
                while left > 0:
                    left -= self._sockets[port].recv(65536).count(b"\n")
            sent = due
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        return sent

    def _message(self, user: str, stamp: int) -> tuple[bytes, bytes]:
        sequence = self._sequences.get(user, 0)
        self._sequences[user] = sequence + 1
        message = {"user_id": user, "message": f"#{sequence}T{stamp}T", "created_at": "2024-01-01T12:00:00Z"}
        channel = CHANNEL if self._way == "shared" else f"{CHANNEL}:user:{user}"
        return channel.encode(), json.dumps(message, separators=(",", ":")).encode()

    def _command(self, channel: bytes, payload: bytes) -> bytes:
        verb = b"SPUBLISH" if self._way == "cluster" else b"PUBLISH"
        parts = (verb, channel, payload)
        return b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()


def measure(way: str, nodes: int, streams: int, rate: float, tools: Tools, folder: Path) -> dict[str, Any]:
    """One row: so many nodes, `streams` over all of them, `rate` messages a second over all users."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redises(way, folder))
        running = [
            stack.enter_context(node(number, streams // nodes, redis, folder)) for number in range(nodes)
        ]
        memory_before = [machine.memory_kb(one.pid)["pss"] for one in running]
        began = time.monotonic()
        for number, one in enumerate(running):
            path = f"/sse?user_id=n{number}u{{user}}"
            conns = len(one.users)
            one.client = stack.enter_context(
                load(tools, one.port, conns, SECONDS + 60, drain=10, users=conns, path=path)
            )
        opened = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        memory = [machine.memory_kb(one.pid)["pss"] for one in running]
        users = [user for one in running for user in one.users]
        publisher = Publisher(redis, way)
        stack.callback(publisher.close)
        before = [one.figures() for one in running]
        redis_before = redis.info()
        published = publisher.run(users, rate, SECONDS)
        time.sleep(1)
        after = [one.figures() for one in running]
        redis_after = redis.info()
        got = [one.client.finish(10**9) for one in running if one.client]
    decoded = [now["decoded"] - was["decoded"] for now, was in zip(after, before, strict=True)]
    cpu = [now["cpu_s"] - was["cpu_s"] for now, was in zip(after, before, strict=True)]
    received = sum(one["received"] for one in got)
    return {
        "way": way,
        "nodes": nodes,
        "streams": streams,
        "rate": rate,
        "published": published,
        "received": received,
        "missing": published - received,
        "decoded_per_node": decoded,
        "own_per_node": [one["received"] for one in got],
        "cpu_s_per_node": [round(one, 3) for one in cpu],
        "cpu_us_per_decoded": round(1e6 * sum(cpu) / sum(decoded), 2),
        "cpu_us_per_published": round(1e6 * sum(cpu) / published, 2),
        "pss_kb_per_stream": round((sum(memory) - sum(memory_before)) / streams, 3),
        "pss_kb_per_node": round(sum(memory_before) / nodes),
        "redis_cpu_us_per_published": round(
            1e6 * (redis_after["cpu_s"] - redis_before["cpu_s"]) / published, 2
        ),
        "redis_bytes_out_per_published": round(
            (redis_after["bytes_out"] - redis_before["bytes_out"]) / published
        ),
        "p50_ms": round(max(one["p50_us"] for one in got) / 1000, 2),
        "p99_ms": round(max(one["p99_us"] for one in got) / 1000, 2),
        "connects_per_s": round(streams / opened),
        "publisher_late_ms": round(1000 * publisher.late, 1),
    }


COLUMNS = (
    ("way", "routing"),
    ("nodes", "nodes"),
    ("missing", "missing"),
    ("cpu_us_per_published", "CPU of all nodes, us a message"),
    ("cpu_us_per_decoded", "us a message decoded"),
    ("pss_kb_per_stream", "KB a stream"),
    ("redis_cpu_us_per_published", "Redis, us a message"),
    ("redis_bytes_out_per_published", "Redis, bytes sent a message"),
    ("p99_ms", "p99, ms"),
)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(title for _, title in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[key]) for key, _ in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=20_000, help="streams over all nodes (20000)")
    parser.add_argument("--rate", type=float, default=5000, help="messages a second over all users (5000)")
    parser.add_argument("--nodes", default="1,2,4,8", help="numbers of nodes (1,2,4,8)")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"among {', '.join(WAYS)}")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for scaling.json")
    choice = parser.parse_args()
    machine.raise_file_limit()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = Tools(folder, None, None)
        for way in choice.ways.split(","):
            for nodes in map(int, choice.nodes.split(",")):
                others = machine.Others()
                row = measure(way, nodes, choice.streams, choice.rate, tools, folder)
                rows.append(row | {"others_cores": others.cores()})
                print(json.dumps(rows[-1]), flush=True)
    choice.output.mkdir(parents=True, exist_ok=True)
    (choice.output / "scaling.json").write_text(
        json.dumps({"rows": rows, "versions": machine.versions({})}, indent=1)
    )
    print(table(rows))


if __name__ == "__main__":
    main()
