"""What the chart shows: a colour for each service, and which figures stand together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from summary import FLOOR, Row

COLOURS = {
    "floor": "#9aa0a6",
    "go": "#00838f",
    "rust": "#b35c1e",
    "node": "#7cb342",
    "centrifugo": "#3949ab",
    "centrifugo-redis": "#8c9eff",
    "nchan": "#2e7d32",
    "sse-starlette": "#8d6e63",
    "trio-sse": "#c62828",
    "hypercorn-trio": "#ef6c00",
    "hypercorn": "#f9a825",
    "quart": "#6a1b9a",
    "trio-sse-2": "#e57373",
    "hypercorn-trio-2": "#ffb74d",
    "hypercorn-2": "#fff176",
}
Bars = list[tuple[Row, float]]


@dataclass(frozen=True)
class Panel:
    """`groups`: of bars that stand side by side, each with its name."""

    title: str
    label: str
    groups: list[tuple[str, Bars]]

    @property
    def crowded(self) -> bool:
        return sum(len(bars) for _, bars in self.groups) > 18


def panels(results: dict[str, Any]) -> list[Panel]:
    """All panels that have bars; groups without bars are left out."""
    works = {w["name"]: w for w in results["works"]}

    def bars(name: str, key: str, scale: float = 1) -> Bars:
        rows = works[name]["rows"] if name in works else []
        return [(r, r[key] / scale) for r in rows if r.get(key)]

    def p99(name: str) -> Bars:
        return [b for b in bars(name, "p99_us", 1000) if b[0]["service"] != FLOOR]

    fans = [(n, f"{w['rate']:,}/s\n× {w['conns']:,}") for n, w in works.items() if n.startswith("fan-")]
    users = [("each-20000", "20,000/s,\none each"), ("burst-20000", "20,000\nat once")]
    tls = "tls-fan-500x1000"
    found = [
        Panel("Fan-out to one user", "delivered/s", [(t, bars(n, "per_s")) for n, t in fans]),
        Panel("Fan-out to one user", "p99 latency, ms", [(t, p99(n)) for n, t in fans]),
        Panel("1,000 users, one connection each", "delivered/s", [(t, bars(n, "per_s")) for n, t in users]),
        Panel("1,000 users, one connection each", "p99 latency, ms", [(t, p99(n)) for n, t in users]),
        Panel(
            "Highest rate with p99 < 50 ms, nothing lost",
            "messages/s",
            [("1,000 users, one connection each", bars("each-max", "max_rate"))],
        ),
        Panel(
            "10,000 clients come back within a second",
            "seconds",
            [
                ("until all are live", bars("storm", "live_s")),
                ("live, with what they missed", bars("storm", "caught_up_s")),
            ],
        ),
        Panel(
            "Idle connections",
            "connects/s  |  KB each (PSS)",
            [
                ("connects/s", bars("idle", "connects_per_s")),
                ("connects/s, TLS", bars("tls-idle", "connects_per_s")),
                ("KB each", bars("idle", "kb_pss")),
                ("KB each, TLS", bars("tls-idle", "kb_pss")),
            ],
        ),
        Panel(
            "A token for each connection",
            "connects/s",
            [
                ("without", bars("tokens", "without_connects_per_s")),
                ("with an HS256 token", bars("tokens", "connects_per_s")),
            ],
        ),
        Panel(
            "TLS: 500/s to 1,000 connections",
            "delivered/s  |  p99 latency, ms",
            [("delivered/s", bars(tls, "per_s")), ("p99, ms", p99(tls))],
        ),
        Panel(
            "A client that never reads",
            "p99 of the other 999, ms",
            [("without", bars("slow", "without_p99_us", 1000)), ("with", bars("slow", "p99_us", 1000))],
        ),
    ]
    kept = [Panel(p.title, p.label, [g for g in p.groups if g[1]]) for p in found]
    return [p for p in kept if p.groups]
