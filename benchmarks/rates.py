"""The work `each-max`: the highest rate that a service holds."""

from __future__ import annotations

import dataclasses

from bench import Bench, Row
from delivery import traffic
from services import Mode, Service
from works import Work

RATES = (
    1_000,
    2_500,
    5_000,
    10_000,
    20_000,
    40_000,
    60_000,
    80_000,
    100_000,
    120_000,
    150_000,
    200_000,
    250_000,
)
P99_LIMIT_US = 50_000
FULL = 0.97  # of the core of load client, publisher and Redis


def _step(bench: Bench, service: Service, work: Work, rate: int) -> Row:
    """One rate, in a new process. `why`: what it did not hold, or ""."""
    with bench.start(service, Mode()) as run:
        row = traffic(bench, run, dataclasses.replace(work, rate=rate))
    span = max(row["load"]["span_s"], 0.001)
    load_side = row["load"]["cpu_s"] + row["redis_cpu_s"] + row["publisher"]["cpu_s"]
    row |= {"rate": rate, "load_side_cores": round(load_side / span, 2), "why": ""}
    if row["missing"]:
        row["why"] = f"{row['missing'] / row['expected']:.1%} lost"
    elif row["behind"]:
        row["why"] = "not all taken"
    elif row["p99_us"] >= P99_LIMIT_US:
        row["why"] = f"p99 {row['p99_us'] / 1000:.0f} ms"
    return row


def _tried(bench: Bench, service: Service, work: Work, rate: int, steps: list[Row]) -> bool:
    """Whether the service holds the rate. It may fail once, for the machine may be at fault."""
    for _ in range(2):
        steps.append(_step(bench, service, work, rate))
        if not steps[-1]["why"]:
            return True
    return False


def highest(bench: Bench, service: Service, work: Work) -> Row:
    """Up from the work's rate until one does not hold; down if it does not hold itself."""
    steps: list[Row] = []
    start = RATES.index(work.rate)
    if _tried(bench, service, work, work.rate, steps):
        for rate in RATES[start + 1 :]:
            if not _tried(bench, service, work, rate, steps):
                break
    else:
        for rate in reversed(RATES[:start]):
            if _tried(bench, service, work, rate, steps):
                break
    held = [s for s in steps if not s["why"]]
    failed = [s for s in steps if s["why"]]
    best = max(held, key=lambda s: s["rate"], default=None)
    above = [s for s in failed if best is None or s["rate"] > best["rate"]]
    ended = min(above, key=lambda s: s["rate"], default=None)
    reason = f"{ended['rate']:,}/s: {ended['why']}" if ended else "the highest rate there is"
    if ended and ended["load_side_cores"] >= FULL:
        reason += ", load side full"
    row = {key: best[key] for key in ("p99_us", "service_cores", "load_side_cores")} if best else {}
    keys = ("rate", "why", "p50_us", "p99_us", "missing", "expected", "service_cores", "load_side_cores")
    return row | {
        "max_rate": best["rate"] if best else 0,
        "ended": reason,
        "steps": [{key: step[key] for key in keys} for step in steps],
        "command": steps[0]["command"],
        "about": steps[0]["about"],
    }
