"""Works that open connections: how many a second, what each costs."""

from __future__ import annotations

import time

import machine
from bench import SETTLE_SECONDS, Bench, Row
from credentials import SECRET
from load import Load
from services import Mode, Running, Service, ended_at
from works import Work

HEARTBEAT_SECONDS = 5  # for the idle works only, so that two heartbeats take 10 s instead of 60


def _weigh(bench: Bench, service: Service, work: Work, mode: Mode, seconds: float) -> Row:
    """Open the connections and leave them for so long: connects/s, memory of each, CPU meanwhile."""
    stop: Row = {}
    with bench.start(service, mode) as run:
        with bench.clients(run, 20, 5, 0) as client:
            client.finish(0)  # what the first connections load for good is not counted to the rest
        time.sleep(SETTLE_SECONDS)
        before = machine.memory_kb(run.pid)
        connecting = machine.cpu_seconds(run.pid)
        with bench.clients(run, work.conns, seconds + 30, 0, users=work.conns) as client:
            time.sleep(SETTLE_SECONDS)
            cpu = machine.cpu_seconds(run.pid)
            connecting = cpu - connecting
            time.sleep(seconds)
            cpu = machine.cpu_seconds(run.pid) - cpu
            after = machine.memory_kb(run.pid)
            about = run.about()
            if not mode.drain:
                stop = _stop(run, client)
            got = client.finish(0)
    connected = max(got["connected"], 1)
    return {
        "command": run.shown,
        "about": about,
        "connects_per_s": got["connects_per_s"],
        "connected": got["connected"],
        "kb_rss": round((after["rss"] - before["rss"]) / connected, 2),
        "kb_pss": round((after["pss"] - before["pss"]) / connected, 2),
        "before_kb": before,
        "after_kb": after,
        "connect_cpu_us": round(connecting / connected * 1e6),
        "cpu_s": round(cpu, 2),
        "cpu_span_s": seconds,
        "bytes_each": round(got["bytes_after_ready"] / connected, 1),
        "refused": got["refused"],
        "closed": got["closed"],
        "load": got,
    } | stop


def _stop(run: Running, client: Load) -> Row:
    """Stop the service: seconds from the signal until the process has ended and no client's socket is
    open."""
    client.watch_end()
    began = time.monotonic()
    process_ended = ended_at(run.pid)
    closed_before, last_closed = client.gone()
    return {"stop_s": round(max(process_ended, last_closed) - began, 3), "closed": closed_before}


def idle(bench: Bench, service: Service, work: Work) -> Row:
    mode = Mode(heartbeat=HEARTBEAT_SECONDS, drain=False, tls=bench.certificate if work.tls else None)
    row = _weigh(bench, service, work, mode, 2 * HEARTBEAT_SECONDS)
    return row | {"cpu_us_per_heartbeat": round(row["cpu_s"] / 2 / work.conns * 1e6, 1)}


def tokens(bench: Bench, service: Service, work: Work) -> Row:
    """Without and with a token for each client, each in a new process."""
    without = _weigh(bench, service, work, Mode(), SETTLE_SECONDS)
    row = _weigh(bench, service, work, Mode(secret=SECRET), SETTLE_SECONDS)
    keys = ("connects_per_s", "connected", "kb_rss", "kb_pss", "connect_cpu_us", "command")
    return row | {f"without_{key}": without[key] for key in keys}
