"""Where the service is ahead of its best peer, and where not: one line for each figure of each work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
OURS, FLOOR = "trio-sse", "floor"
# What is compared, for each kind of work: key, name.
COMPARED = {
    "deliver": [("per_s", "delivered/s"), ("p99_us", "p99, us")],
    "max": [("max_rate", "messages/s held")],
    "idle": [
        ("connects_per_s", "connects/s"),
        ("kb_pss", "KB each, PSS"),
        ("cpu_us_per_heartbeat", "us per heartbeat"),
    ],
    "storm": [("live_s", "s until all are live"), ("caught_up_s", "s until live and caught up")],
    "tokens": [("connects_per_s", "connects/s with a token"), ("kb_pss", "KB each, PSS, with a token")],
    "topics": [("per_s", "delivered/s"), ("p99_us", "p99, us")],
    "storm topics": [("live_s", "s until all are live"), ("caught_up_s", "s until live and caught up")],
    "slow": [("p99_us", "p99 beside a client that never reads, us")],
}
MORE_IS_BETTER = {"per_s", "max_rate", "connects_per_s"}


@dataclass(frozen=True)
class Line:
    """`ahead`: above 1 the service is better than its best peer, so many times.

    `complete`: neither of them lost anything.
    """

    work: str
    figure: str
    ours: float
    peer: float
    peer_title: str
    ahead: float
    complete: bool


def incomplete(row: Row) -> bool:
    """Whether not all messages were taken and received: its figures are then for less work."""
    return any(row.get(key) for key in ("missing", "without_missing", "one_missing", "behind", "one_behind"))


def lines(results: dict[str, Any]) -> list[Line]:
    """A peer that lost messages is the measure only where no peer did, not by its times."""
    found = []
    for work in results["works"]:
        good = [r for r in work["rows"] if "error" not in r]
        ours = next((r for r in good if r["service"] == OURS), None)
        peers = [r for r in good if r["peer"] and r["service"] != FLOOR]
        for key, name in COMPARED[work["kind"]]:
            more = key in MORE_IS_BETTER
            able = [r for r in peers if r.get(key)]
            whole = [r for r in able if not incomplete(r)]
            able = whole or (able if more else [])
            if not (ours and ours.get(key) and able):
                continue
            choose: Callable[..., Row] = max if more else min
            best = choose(able, key=lambda r: r[key])
            ahead = ours[key] / best[key] if more else best[key] / ours[key]
            complete = not (incomplete(ours) or incomplete(best))
            found.append(Line(work["name"], name, ours[key], best[key], best["title"], ahead, complete))
    return found
