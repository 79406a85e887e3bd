"""From what `scaling.py` measured to a million streams and more, as tables for docs/scaling.md.

    python benchmarks/scaling_model.py try/scaling.json --messages-per-stream-and-hour 60

Figures in italics are computed. The assumptions are the constants below, and are printed with the tables.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STREAMS = (1_000_000, 10_000_000, 100_000_000)

MOST_STREAMS = 100_000
"""Streams of one process, whatever its CPU: what its clients do when it dies must be bearable."""
MOST_CORE = 0.6
"""How busy a process, and a Redis, may be on average."""
HEARTBEAT_US = 21.0
"""CPU of one heartbeat (`run.py --works idle`), every 30 s."""
KERNEL_KB = 4.0
"""Memory of the kernel for an idle connection (`layers.py`)."""
CONNECTS_PER_S = 4000.0
"""Streams that one process can open in a second (`run.py --works idle`)."""


@dataclass(frozen=True)
class Line:
    """y = base + slope * nodes."""

    base: float
    slope: float

    def at(self, nodes: float) -> float:
        return self.base + self.slope * nodes

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> Line:
        """The least squares fit."""
        found = list(points)
        if len(found) == 1:
            return cls(found[0][1], 0)
        mean_x = sum(x for x, _ in found) / len(found)
        mean_y = sum(y for _, y in found) / len(found)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in found) / sum((x - mean_x) ** 2 for x, _ in found)
        return cls(mean_y - slope * mean_x, slope)


@dataclass(frozen=True)
class Way:
    """What one way of routing costs, by the number of nodes."""

    name: str
    node_us: Line
    """CPU of all nodes for one message."""
    redis_us: Line
    redis_bytes: Line
    stream_kb: float
    process_kb: float

    @classmethod
    def of(cls, name: str, rows: list[dict[str, Any]]) -> Way:
        def line(key: str) -> Line:
            return Line.through((row["nodes"], row[key]) for row in rows)

        return cls(
            name,
            line("cpu_us_per_published"),
            line("redis_cpu_us_per_published"),
            line("redis_bytes_out_per_published"),
            sum(row["pss_kb_per_stream"] for row in rows) / len(rows),
            sum(row["pss_kb_per_node"] for row in rows) / len(rows),
        )


def needs(way: Way, streams: int, per_hour: float) -> dict[str, str]:
    """What so many streams need, each with `per_hour` messages."""
    rate = streams * per_hour / 3600
    grows = way.name == "shared"  # each process decodes every message
    idle_cores = streams * HEARTBEAT_US / 1e6 / 30
    decode = way.node_us.slope if grows else 0
    if grows and decode * rate / 1e6 >= MOST_CORE:
        return {
            "streams": f"{streams:,}",
            "messages/s": f"*{rate:,.0f}*",
            "processes": "–",
            "what breaks first": f"every process decodes all: *{decode * rate / 1e6:.1f}* cores each",
        }
    own_us = way.node_us.base if grows else way.node_us.at(1)
    cores = idle_cores + own_us * rate / 1e6
    room = MOST_CORE - decode * rate / 1e6
    processes = max(math.ceil(streams / MOST_STREAMS), math.ceil(cores / room))
    redis_us = way.redis_us.at(processes) if grows else way.redis_us.at(1)
    redis_cores = redis_us * rate / 1e6
    shards = max(1, math.ceil(redis_cores / MOST_CORE))
    if grows and shards > 1:
        breaks = f"Redis, which has one core and needs *{redis_cores:.1f}* to publish to all processes"
    elif not grows and way.name == "by-key" and shards > 1:
        breaks = f"Redis, which has one core and needs *{redis_cores:.1f}*"
    else:
        breaks = "memory, most of it the kernel's"
    memory = (streams * (way.stream_kb + KERNEL_KB) + processes * way.process_kb) / 1024**2
    out = rate * (way.redis_bytes.at(processes) if grows else way.redis_bytes.at(1)) * 8 / 1e6
    away = MOST_STREAMS / (max(processes - 1, 1) * CONNECTS_PER_S)
    return {
        "streams": f"{streams:,}",
        "messages/s": f"*{rate:,.0f}*",
        "processes": f"*{processes:,}*",
        "memory, GB": f"*{memory:,.0f}*",
        "Redis masters": f"*{shards if way.name == 'cluster' else 1}*",
        "out of Redis, Mbit/s": f"*{out:,.0f}*",
        "a process dies: all back in, s": f"*{max(away, 0.1):.1f}*",
        "what breaks first": breaks,
    }


def table(rows: list[dict[str, str]]) -> str:
    titles = list(dict.fromkeys(title for row in rows for title in row))
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(
        [*lines, *("| " + " | ".join(row.get(title, "") for title in titles) + " |" for row in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, help="scaling.json")
    parser.add_argument("--messages-per-stream-and-hour", type=float, default=60)
    choice = parser.parse_args()
    by_way: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(choice.measured.read_text())["rows"]:
        by_way.setdefault(row["way"], []).append(row)
    ways = [Way.of(name, own) for name, own in by_way.items()]
    for way in ways:
        line, redis = way.node_us, way.redis_us
        print(
            f"{way.name}: {line.base:.1f} + {line.slope:.1f} × nodes us of CPU a message, over all nodes; "
            f"Redis {redis.base:.1f} + {redis.slope:.1f} × nodes us; {way.stream_kb:.2f} KB a stream, "
            f"{way.process_kb / 1024:.0f} MB a process"
        )
    per_hour = choice.messages_per_stream_and_hour
    print(
        f"Assumed: at most {MOST_STREAMS:,} streams a process, {MOST_CORE:.0%} of a core busy, "
        f"{HEARTBEAT_US:g} us a heartbeat, {KERNEL_KB:g} KB of the kernel a connection, "
        f"{CONNECTS_PER_S:,.0f} connects/s a process, {per_hour:g} messages a stream and hour."
    )
    for way in ways:
        print(f"\n{way.name}\n")
        print(table([needs(way, streams, per_hour) for streams in STREAMS]))


if __name__ == "__main__":
    main()
