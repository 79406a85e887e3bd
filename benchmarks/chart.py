"""results.png: one panel for each question, the same colour for the same service everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import Row, incomplete

COLOURS = {
    "floor": "#9aa0a6",
    "go": "#00838f",
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


def _panels(results: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, list[tuple[Row, float]]]]]]:
    """(title, axis label, groups of (name, bars)); groups without bars are left out."""
    works = {w["name"]: w for w in results["works"]}

    def bars(name: str, key: str, scale: float = 1) -> list[tuple[Row, float]]:
        rows = works[name]["rows"] if name in works else []
        return [(r, r[key] / scale) for r in rows if r.get(key)]

    fans = [(n, f"{w['rate']:,}/s\n× {w['conns']:,}") for n, w in works.items() if n.startswith("fan-")]
    users = [("each-20000", "20,000/s,\none each"), ("burst-20000", "20,000\nat once")]
    panels = [
        ("Fan-out to one user", "delivered/s", [(t, bars(n, "per_s")) for n, t in fans]),
        (
            "Fan-out to one user",
            "p99 latency, ms",
            [(t, [b for b in bars(n, "p99_us", 1000) if b[0]["service"] != "floor"]) for n, t in fans],
        ),
        ("1,000 users, one connection each", "delivered/s", [(t, bars(n, "per_s")) for n, t in users]),
        (
            "1,000 users, one connection each",
            "p99 latency, ms",
            [(t, [b for b in bars(n, "p99_us", 1000) if b[0]["service"] != "floor"]) for n, t in users],
        ),
        (
            "8,000 idle connections",
            "connects/s  |  KB each (PSS)",
            [("connects/s", bars("idle", "connects_per_s")), ("KB each (PSS)", bars("idle", "kb_pss"))],
        ),
        (
            "A client that never reads",
            "p99 of the other 999, ms",
            [("without", bars("slow", "without_p99_us", 1000)), ("with", bars("slow", "p99_us", 1000))],
        ),
    ]
    kept = [(title, label, [g for g in groups if g[1]]) for title, label, groups in panels]
    return [p for p in kept if p[2]]


def _short(value: float) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def draw(results: dict[str, Any], folder: Path) -> str:
    """Draw results.png. Returns "" or the reason why it could not be drawn."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        from matplotlib.patches import Patch
    except ImportError:
        return "matplotlib is not installed"
    panels = _panels(results)
    if not panels:
        return "nothing was measured"
    height = -(-len(panels) // 2)
    figure, grid = plt.subplots(height, 2, figsize=(16, 4.8 * height + 1), squeeze=False, facecolor="white")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    named: dict[str, str] = {}
    for axes, (title, label, groups) in zip(grid.flat, panels, strict=False):
        x, ticks = 0.0, []
        for _, group in groups:
            start = x
            for row, value in group:
                lost = incomplete(row)
                colour = COLOURS.get(row["service"], "#555555")
                named[row["title"]] = colour
                axes.bar(
                    x,
                    value,
                    0.92,
                    color=colour,
                    hatch="///" if lost else "",
                    edgecolor="white" if lost else colour,
                )
                axes.annotate(
                    _short(value),
                    (x, value),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=7.5,
                    rotation=90 if sum(len(g) for _, g in groups) > 18 else 0,
                )
                x += 1
            ticks.append((start + x - 1) / 2)
            x += 0.8
        axes.set_xticks(ticks, [name for name, _ in groups], fontsize=9)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.2, high * 2.2)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_ylabel(label, fontsize=9)
        axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in named.items()]
    handles.append(Patch(facecolor="#bbbbbb", edgecolor="white", hatch="///", label="did not deliver all"))
    meta = results["meta"]
    figure.suptitle(f"{meta['date']} · {meta['versions']['cpu']} · log scale", fontsize=11)
    figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 0.98))
    figure.savefig(folder / "results.png", dpi=110)
    return ""
