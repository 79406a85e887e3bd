"""results.png: where the service is ahead of its best peers, then one panel for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from panels import COLOURS, Panel, panels
from summary import OURS, Line, incomplete, lines

AHEAD, EVEN, BEHIND = "#2e7d32", "#9e9e9e", "#c62828"
EVEN_WITHIN = 1.05


def _short(value: float) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _overview(axes: Any, found: list[Line]) -> None:
    """One horizontal bar for each figure, to the right of 1 where the service is ahead."""
    places = range(len(found), 0, -1)
    for y, line in zip(places, found, strict=True):
        even = 1 / EVEN_WITHIN <= line.ahead <= EVEN_WITHIN
        colour = EVEN if even else AHEAD if line.ahead > 1 else BEHIND
        hatch = "" if line.complete else "///"
        axes.barh(y, line.ahead - 1, 0.75, left=1, color=colour, hatch=hatch, edgecolor="white")
        right = line.ahead >= 1
        axes.annotate(
            f"{line.ahead:.2f}{'' if line.complete else '*'}  {line.peer_title}",
            (line.ahead, y),
            (4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    low, high = min(line.ahead for line in found), max(line.ahead for line in found)
    axes.set_xlim(min(low, 0.5) / 3, max(high, 2) * 2.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(list(places), [f"{line.work}: {line.figure}" for line in found], fontsize=8)
    axes.axvline(1, color="#424242", linewidth=1)
    axes.set_title(
        f"{OURS} beside the best peer of each work: times as good "
        f"(green: ahead, red: behind, grey: within {EVEN_WITHIN - 1:.0%}; *: with losses)",
        fontsize=11,
        loc="left",
    )
    axes.grid(axis="x", color="#e0e0e0", linewidth=0.6)


def _bars(axes: Any, panel: Panel, named: dict[str, str]) -> None:
    """The groups of a panel side by side; `named` gathers the colours for the legend."""
    x, ticks = 0.0, []
    for _, group in panel.groups:
        start = x
        for row, value in group:
            lost = incomplete(row)
            colour = COLOURS.get(row["service"], "#555555")
            named[row["title"]] = colour
            edge, hatch = ("white", "///") if lost else (colour, "")
            axes.bar(x, value, 0.92, color=colour, hatch=hatch, edgecolor=edge)
            axes.annotate(
                _short(value),
                (x, value),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                rotation=90 if panel.crowded else 0,
            )
            x += 1
        ticks.append((start + x - 1) / 2)
        x += 0.8
    axes.set_xticks(ticks, [name for name, _ in panel.groups], fontsize=9)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.2, high * 2.2)
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_ylabel(panel.label, fontsize=9)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.6)


def draw(results: dict[str, Any], folder: Path) -> str:
    """Draw results.png. Returns "" or the reason why it could not be drawn."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        from matplotlib.patches import Patch
    except ImportError:
        return "matplotlib is not installed"
    shown, compared = panels(results), lines(results)
    if not shown:
        return "nothing was measured"
    rows = -(-len(shown) // 2)
    top = 0.22 * len(compared) + 0.9 if compared else 0.01
    figure = plt.figure(figsize=(16, 4.8 * rows + top + 1.2), facecolor="white")
    grid = figure.add_gridspec(rows + 1, 2, height_ratios=[top, *[4.8] * rows])
    drawn = []
    if compared:
        drawn.append(figure.add_subplot(grid[0, :]))
        _overview(drawn[0], compared)
    named: dict[str, str] = {}
    for i, panel in enumerate(shown):
        drawn.append(figure.add_subplot(grid[1 + i // 2, i % 2]))
        _bars(drawn[-1], panel, named)
    for axes in drawn:
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in named.items()]
    handles.append(Patch(facecolor="#bbbbbb", edgecolor="white", hatch="///", label="did not deliver all"))
    meta = results["meta"]
    height = figure.get_figheight()
    title = f"{meta['date']} · {meta['versions']['cpu']} · log scale"
    figure.suptitle(title, fontsize=11, y=1 - 0.08 / height, va="top")
    figure.legend(handles=handles, loc="lower center", ncols=min(8, len(handles)), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.8 / height, 1, 1 - 0.4 / height))
    figure.savefig(folder / "results.png", dpi=110)
    return ""
