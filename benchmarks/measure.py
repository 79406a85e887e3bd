"""A measurement: one row of the results, by the kind of the work."""

from __future__ import annotations

import subprocess

import machine
from bench import Bench, Row
from connects import idle, tokens
from delivery import deliver, slow, topics
from load import floor
from rates import highest
from services import Service
from storms import storm, storm_with_topics
from works import Work

FLOOR_SECONDS = 2.0
KINDS = {
    "deliver": deliver,
    "idle": idle,
    "tokens": tokens,
    "slow": slow,
    "max": highest,
    "storm": storm,
    "topics": topics,
    "storm topics": storm_with_topics,
}


def measure(bench: Bench, service: Service, work: Work) -> Row:
    """One row of the results. A failure becomes a row with `error`."""
    row: Row = {"service": service.name, "title": service.title, "peer": service.peer}
    others = machine.Others()
    try:
        row |= KINDS[work.kind](bench, service, work)
    except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        row["error"] = str(error)
    return row | {"others_cores": others.cores()}


def has_floor(work: Work) -> bool:
    return work.kind in ("deliver", "idle", "slow") and not work.needs


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
