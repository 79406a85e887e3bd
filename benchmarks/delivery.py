"""Works that publish and count what arrives."""

from __future__ import annotations

import time

import machine
from bench import SETTLE_SECONDS, Bench, Row, account
from services import Mode, Running, Service
from works import Work


def traffic(bench: Bench, run: Running, work: Work, silent: int = 0) -> Row:
    """Open the streams, publish, wait for what arrives."""
    conns = work.conns + silent
    seconds = bench.length(work)
    count = work.count or int(work.rate * seconds)
    limit = seconds * 1.5 + 2
    with bench.clients(run, conns, limit + 30, bench.drain, silent=silent, **work.loads) as client:
        time.sleep(SETTLE_SECONDS)
        cpu = machine.cpu_seconds(run.pid)
        redis_cpu = machine.cpu_seconds(bench.redis.pid)
        published = bench.publish(run, limit, rate=work.rate, count=count, pad=work.pad, **work.sends)
        unsent = machine.unsent_bytes(run.port)
        expected = published["published"] * work.conns // work.users
        got = client.finish(expected)
        cpu = machine.cpu_seconds(run.pid) - cpu
        redis_cpu = machine.cpu_seconds(bench.redis.pid) - redis_cpu
        dropped = run.dropped()
    missing = max(expected - got["received"], 0)  # what was not answered may have arrived all the same
    row: Row = {
        "command": run.shown,
        "about": run.about(),
        "per_s": got["per_s"],
        **account(got, expected, missing, dropped),
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


def deliver(bench: Bench, service: Service, work: Work) -> Row:
    with bench.start(service, Mode(tls=bench.certificate if work.tls else None)) as run:
        return traffic(bench, run, work)


def topics(bench: Bench, service: Service, work: Work) -> Row:
    """The same traffic twice, each in a new process: to streams of one key, and of several."""
    one = deliver(bench, service, work.with_one_key())
    row = deliver(bench, service, work)
    keys = ("per_s", "p50_us", "p99_us", "max_us", "missing", "behind", "service_cores", "load")
    return row | {f"one_{key}": one[key] for key in keys}


def slow(bench: Bench, service: Service, work: Work) -> Row:
    """The same traffic twice, each in a new process: without and with a client that never reads."""
    with bench.start(service, Mode()) as run:
        without = traffic(bench, run, work)
    with bench.start(service, Mode()) as run:
        row = traffic(bench, run, work, silent=1)
    row |= {f"without_{key}": without[key] for key in ("p50_us", "p99_us", "p999_us", "max_us", "missing")}
    row["without_load"] = without["load"]
    return row
