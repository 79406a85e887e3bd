"""What is measured: the works, and one function for each kind of work."""

from __future__ import annotations

import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from load import Tools, floor, load
from redis_server import RedisServer
from services import Mode, Running, Service, running

SETTLE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5  # for the idle work only, so that two heartbeats take 10 s instead of 60
FLOOR_SECONDS = 2.0
NCHAN_WINDOW = 64  # messages under way to nginx at a time
DEFAULTS = Mode()
Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """`rate`: messages/s published in all (0: as fast as they are taken); `seconds`: (full, quick) length.

    `count`: messages in all, instead of rate x seconds. `pad`: bytes of padding in each message.
    """

    name: str
    title: str
    kind: str
    conns: int
    users: int = 1
    rate: int = 0
    count: int = 0
    pad: int = 0
    seconds: tuple[float, float] = (8, 2)


def _fan(rate: int, conns: int) -> Work:
    title = f"fan-out: {rate:,} messages/s to {conns:,} connections of one user"
    return Work(f"fan-{rate}x{conns}", title, "deliver", conns, rate=rate)


WORKS = (
    _fan(150, 1000),
    _fan(500, 1000),
    _fan(2000, 1000),
    _fan(10000, 1000),
    _fan(500, 8000),
    Work("each-20000", "20,000 messages/s to 1,000 users, one connection each", "deliver", 1000, 1000, 20000),
    Work(
        "burst-20000",
        "20,000 messages at once to 1,000 users, one connection each",
        "deliver",
        1000,
        1000,
        0,
        20000,
    ),
    Work("idle", "8,000 idle connections", "idle", 8000),
    Work(
        "slow",
        "999 readers, with and without one client that never reads (5 messages/s of 8 KB)",
        "slow",
        999,
        rate=5,
        pad=8192,
        seconds=(12, 6),
    ),
)


@dataclass
class Bench:
    """All that a measurement needs. `extra`: further environment for the service under test."""

    tools: Tools
    redis: RedisServer
    folder: Path
    files: int
    quick: bool
    extra: dict[str, str]

    @property
    def drain(self) -> float:
        """Seconds to wait for late messages after the last was published."""
        return 4 if self.quick else 10

    def length(self, work: Work) -> float:
        return work.seconds[1 if self.quick else 0]


def measure(bench: Bench, service: Service, work: Work) -> Row:
    """One row of the results. A failure becomes a row with `error`."""
    kinds = {"deliver": _deliver, "idle": _idle, "slow": _slow}
    row: Row = {"service": service.name, "title": service.title, "peer": service.peer}
    others = machine.Others()
    try:
        row |= kinds[work.kind](bench, service, work)
    except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        row["error"] = str(error)
    return row | {"others_cores": others.cores()}


def measure_floor(bench: Bench, work: Work) -> Row:
    """The bare send() loop at the same number of connections, just before the services of that work."""
    rate = work.rate if work.kind == "slow" else 0
    seconds = {"idle": 0.01, "slow": bench.length(work)}.get(work.kind, FLOOR_SECONDS)
    others = machine.Others()
    got = floor(bench.tools, work.conns, seconds, rate, pad=work.pad)
    sent, client = got["floor"], got["load"]
    row: Row = {
        "service": "floor",
        "title": "floor: bare send() loop",
        "peer": True,
        "command": f"floor conns={work.conns} rate={rate} seconds={seconds} pad={work.pad}",
        "per_s": sent["per_s"],
        "expected": sent["sends"],
        "received": client["received"],
        "blocked": sent["blocked"],
        "missing": sent["sends"] - client["received"],
        "service_cpu_s": sent["cpu_s"],
        "service_cores": round(sent["cpu_s"] / sent["seconds"], 3),
        "connects_per_s": client["connects_per_s"],
        "without_p50_us": client["p50_us"],
        "without_p99_us": client["p99_us"],
        "without_max_us": client["max_us"],
        "load": client,
        "others_cores": others.cores(),
        "connected": client["connected"],
    }
    return row | {key: client[key] for key in ("p50_us", "p99_us", "p999_us", "max_us")}


def _traffic(bench: Bench, run: Running, work: Work, silent: int = 0) -> Row:
    """Open the streams, publish, wait for what arrives."""
    conns, service = work.conns + silent, run.service
    seconds = bench.length(work)
    count = work.count or int(work.rate * seconds)
    where: dict[str, object] = {"port": run.port, "to": service.publish}
    if service.publish == "redis":
        where["port"] = bench.redis.port
    elif service.publish == "nchan":
        where["window"] = NCHAN_WINDOW
    limit = seconds * 1.5 + 2
    with load(
        bench.tools,
        run.port,
        conns,
        limit + 30,
        bench.drain,
        users=work.users,
        silent=silent,
        path=service.client.path,
        mark=service.client.mark,
    ) as client:
        time.sleep(SETTLE_SECONDS)
        cpu = machine.cpu_seconds(run.pid)
        redis_cpu = machine.cpu_seconds(bench.redis.pid)
        published = bench.tools.publish(
            limit, rate=work.rate, count=count, users=work.users, pad=work.pad, **where
        )
        unsent = machine.unsent_bytes(run.port)
        expected = published["published"] * work.conns // work.users
        got = client.finish(expected)
        cpu = machine.cpu_seconds(run.pid) - cpu
        redis_cpu = machine.cpu_seconds(bench.redis.pid) - redis_cpu
        dropped = run.dropped()
    missing = expected - got["received"]
    row: Row = {
        "command": run.shown,
        "about": run.about(),
        "per_s": got["per_s"],
        "expected": expected,
        "received": got["received"],
        "missing": missing,
        "told": got["gap_dropped"],
        "told_unknown": got["gap_unknown"],
        "counted_by_service": dropped,
        "accounted": missing == got["gap_dropped"],
        "behind": published["published"] < count,
        "service_cpu_s": round(cpu, 2),
        "service_cores": round(cpu / got["span_s"], 3) if got["span_s"] else None,
        "redis_cpu_s": round(redis_cpu, 2),
        "unsent_bytes": unsent,
        "load": got,
        "publisher": published,
    }
    keys = (
        "p50_us",
        "p99_us",
        "p999_us",
        "max_us",
        "duplicates",
        "reordered",
        "closed",
        "refused",
        "connects_per_s",
    )
    return row | {key: got[key] for key in keys}


def _start(bench: Bench, service: Service, mode: Mode = DEFAULTS) -> AbstractContextManager[Running]:
    cores = bench.tools.service_cores
    return running(service, bench.redis, bench.folder, bench.files, cores, mode, bench.extra)


def _deliver(bench: Bench, service: Service, work: Work) -> Row:
    with _start(bench, service) as run:
        return _traffic(bench, run, work)


def _slow(bench: Bench, service: Service, work: Work) -> Row:
    """The same traffic twice, each in a new process: without and with a client that never reads."""
    with _start(bench, service) as run:
        without = _traffic(bench, run, work)
    with _start(bench, service) as run:
        row = _traffic(bench, run, work, silent=1)
    row |= {f"without_{key}": without[key] for key in ("p50_us", "p99_us", "p999_us", "max_us", "missing")}
    row["without_load"] = without["load"]
    return row


def _idle(bench: Bench, service: Service, work: Work) -> Row:
    seconds = 2 * HEARTBEAT_SECONDS
    ask = {"path": service.client.path, "mark": service.client.mark}
    with _start(bench, service, Mode(heartbeat=HEARTBEAT_SECONDS)) as run:
        with load(bench.tools, run.port, 20, 5, 0, **ask) as client:
            client.finish(0)  # what the first connections load for good is not counted to the rest
        time.sleep(SETTLE_SECONDS)
        before = machine.memory_kb(run.pid)
        with load(bench.tools, run.port, work.conns, seconds + 30, 0, users=work.conns, **ask) as client:
            time.sleep(SETTLE_SECONDS)
            cpu = machine.cpu_seconds(run.pid)
            time.sleep(seconds)
            cpu = machine.cpu_seconds(run.pid) - cpu
            after = machine.memory_kb(run.pid)
            got = client.finish(0)
    per_conn = {key: round((after[key] - before[key]) / max(got["connected"], 1), 2) for key in after}
    return {
        "command": run.shown,
        "about": run.about(),
        "connects_per_s": got["connects_per_s"],
        "connected": got["connected"],
        "kb_rss": per_conn["rss"],
        "kb_pss": per_conn["pss"],
        "before_kb": before,
        "after_kb": after,
        "cpu_s": round(cpu, 2),
        "cpu_span_s": seconds,
        "cpu_us_per_heartbeat": round(cpu / 2 / work.conns * 1e6, 1),
        "bytes_each": round(got["bytes_after_ready"] / max(got["connected"], 1), 1),
        "refused": got["refused"],
        "closed": got["closed"],
        "load": got,
    }
