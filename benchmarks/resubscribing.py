"""How soon all subscriptions are back: CLIENT KILL of every subscriber, by key and in a cluster.

    python benchmarks/resubscribing.py --targets 100000 --times 5

One `trio-sse` process whose streams follow so many topics together, a thousand each. Measured from the moment
at which Redis has cut its connections, so the pause before the first attempt counts: until the last channel
is subscribed again, as Redis says (asked every 20 ms), and until the last stream has read that it may have
missed messages (`redis_reconnected`; in a cluster once for each master). CPU is that of the process; what
other programs used meanwhile is in the last column.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import machine
import trio
from redis_server import ask
from scaling import CHANNEL, Redises, redises
from services import from_source

TOPICS = 1000
WAYS = ("by-key", "cluster")


class Stream:
    """One that follows TOPICS topics, and reads."""

    def __init__(self, number: int, port: int) -> None:
        self._number = number
        self._port = port
        self.gaps = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Started when it is connected."""
        query = "&".join(f"topic=t{self._number}-{one}" for one in range(TOPICS))
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            await stream.send_all(f"GET /sse?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            rest, connected = b"", False
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                self.gaps += lines.count(b"event: gap")
                if not connected and b"event: connected" in lines:
                    connected = True
                    task_status.started()
        raise SystemExit("a stream has ended")


@contextlib.asynccontextmanager
async def streams(port: int, targets: int) -> AsyncIterator[list[Stream]]:
    async with trio.open_nursery() as nursery:
        opened = [Stream(number, port) for number in range(targets // TOPICS)]
        for stream in opened:
            await nursery.start(stream.run)
        yield opened
        nursery.cancel_scope.cancel()


def subscribed(redis: Redises, way: str) -> int:
    """How many channels are subscribed, at all masters."""
    field = b"pubsubshard_channels:" if way == "cluster" else b"pubsub_channels:"
    lines = [line for port in redis.ports for line in ask(port, "INFO", "stats").splitlines()]
    return sum(int(line.removeprefix(field)) for line in lines if line.startswith(field))


async def measure(way: str, targets: int, times: int, folder: Path) -> None:
    with redises(way, folder) as redis:
        settings = {"SSE_REDIS_CHANNEL": CHANNEL, "SSE_MAX_TOPICS": str(TOPICS), "SSE_LOG_LEVEL": "error"}
        with from_source({**settings, **redis.settings}, folder) as (pid, port):
            async with streams(port, targets) as opened:
                channels = len(opened) * TOPICS + 1
                for _ in range(times):
                    await one(way, redis, pid, opened, channels)


async def one(way: str, redis: Redises, pid: int, opened: list[Stream], channels: int) -> None:
    before, cpu, others = [stream.gaps for stream in opened], machine.cpu_seconds(pid), machine.Others()
    for port in redis.ports:
        ask(port, "CLIENT", "KILL", "TYPE", "pubsub")
    began = time.monotonic()
    back: float | None = None
    told: float | None = None
    while back is None or told is None:
        await trio.sleep(0.02)
        now = time.monotonic() - began
        if back is None and subscribed(redis, way) == channels:
            back = now
        shards = len(redis.ports)  # each tells its own
        if told is None and all(
            stream.gaps >= had + shards for stream, had in zip(opened, before, strict=True)
        ):
            told = now
    busy = others.cores()
    await trio.sleep(1)
    used = machine.cpu_seconds(pid) - cpu
    print(f"| {way} | {channels:,} | {back:.2f} | {told:.2f} | {used:.2f} | {busy:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS), help="of by-key, cluster")
    given = parser.parse_args()
    heads = ("routing", "channels", "all subscribed after, s", "all told after, s", "CPU, s", "others, cores")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for way in given.ways.split(","):
        with tempfile.TemporaryDirectory() as folder:
            trio.run(measure, way, given.targets, given.times, Path(folder))


if __name__ == "__main__":
    main()
