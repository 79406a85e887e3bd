"""Text tables, results.md and results.json out of the measured rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from summary import COMPARED, FLOOR, OURS, Row, incomplete, lines

Cell = Callable[[Row], str]
NOISE_CORES = 0.15  # other programs' CPU above this is marked


def _number(key: str, digits: int = 0, scale: float = 1) -> Cell:
    return lambda row: "–" if row.get(key) is None else f"{row[key] / scale:,.{digits}f}"


def _lost(row: Row, prefix: str = "") -> str:
    """Messages that should have arrived and had not when the wait ended."""
    missing, expected = row.get(prefix + "missing", 0), row.get("expected", 0)
    if not missing and row.get("behind") and not prefix:
        return f"none; took {row['publisher']['published'] / row['publisher']['wanted']:.0%} only"
    if not missing:
        return "none"
    return f"LOST {missing:,} ({missing / expected:.1%})"


def _others(row: Row) -> str:
    cores = row.get("others_cores")
    return "–" if cores is None else f"{cores:.2f}" + ("!" if cores > NOISE_CORES else "")


def _caught_up(row: Row, prefix: str = "") -> str:
    if not row["resumes"]:
        return "cannot resume"
    seconds = row[prefix + "caught_up_s"]
    return "not all" if seconds is None else f"{seconds:.2f}"


def _times(key: str) -> Cell:
    """A figure with several keys, divided by the one with one key."""
    return lambda row: f"{row[key] / row[f'one_{key}']:.2f}" if row[key] and row[f"one_{key}"] else "–"


MS = 1000
COLUMNS: dict[str, list[tuple[str, Cell]]] = {
    "deliver": [
        ("delivered/s", _number("per_s")),
        ("lost", _lost),
        ("p50 ms", _number("p50_us", 1, MS)),
        ("p99 ms", _number("p99_us", 1, MS)),
        ("p99.9 ms", _number("p999_us", 1, MS)),
        ("max ms", _number("max_us", 1, MS)),
        ("cores: service", _number("service_cores", 2)),
        ("load", lambda row: f"{row['load']['core_share']:.2f}"),
        ("others", _others),
    ],
    "idle": [
        ("connects/s", _number("connects_per_s")),
        ("connected", _number("connected")),
        ("KB each, RSS", _number("kb_rss", 1)),
        ("KB each, PSS", _number("kb_pss", 1)),
        ("CPU s", _number("cpu_s", 2)),
        ("us per heartbeat", _number("cpu_us_per_heartbeat", 1)),
        ("bytes each", _number("bytes_each")),
        ("s to stop", _number("stop_s", 2)),
        ("others", _others),
    ],
    "max": [
        ("messages/s held", _number("max_rate")),
        ("p99 ms", _number("p99_us", 1, MS)),
        ("cores: service", _number("service_cores", 2)),
        ("load side", _number("load_side_cores", 2)),
        ("did not hold", lambda row: str(row["ended"])),
        ("others", _others),
    ],
    "storm": [
        ("s until all are live", _number("live_s", 2)),
        ("live and caught up", _caught_up),
        ("missing", lambda row: f"{row['missing']:,}" if row["resumes"] else "all"),
        ("p50 ms to live", _number("live_p50_us", 0, MS)),
        ("p99 ms to live", _number("live_p99_us", 0, MS)),
        ("CPU s", _number("storm_cpu_s", 2)),
        ("others", _others),
    ],
    "tokens": [
        ("connects/s without", _number("without_connects_per_s")),
        ("with", _number("connects_per_s")),
        ("us of CPU each without", _number("without_connect_cpu_us")),
        ("with", _number("connect_cpu_us")),
        ("KB each, PSS, without", _number("without_kb_pss", 1)),
        ("with", _number("kb_pss", 1)),
        ("others", _others),
    ],
    "topics": [
        ("delivered/s, one key", _number("one_per_s")),
        ("several", _number("per_s")),
        ("times", _times("per_s")),
        ("p99 ms, one key", _number("one_p99_us", 1, MS)),
        ("several", _number("p99_us", 1, MS)),
        ("times", _times("p99_us")),
        ("cores: service, one key", _number("one_service_cores", 2)),
        ("several", _number("service_cores", 2)),
        ("lost, one key", lambda row: _lost(row, "one_")),
        ("several", _lost),
        ("others", _others),
    ],
    "storm topics": [
        ("s until all are live, one key", _number("one_live_s", 2)),
        ("several", _number("live_s", 2)),
        ("times", _times("live_s")),
        ("live and caught up, one key", lambda row: _caught_up(row, "one_")),
        ("several", _caught_up),
        ("CPU s, one key", _number("one_storm_cpu_s", 2)),
        ("several", _number("storm_cpu_s", 2)),
        ("missing", lambda row: f"{row['missing']:,}"),
        ("others", _others),
    ],
    "slow": [
        ("p50 ms without", _number("without_p50_us", 1, MS)),
        ("p99 ms without", _number("without_p99_us", 1, MS)),
        ("p99 ms with", _number("p99_us", 1, MS)),
        ("max ms without", _number("without_max_us", 1, MS)),
        ("max ms with", _number("max_us", 1, MS)),
        ("lost without", lambda row: _lost(row, "without_")),
        ("lost with", _lost),
        ("unsent KB", _number("unsent_bytes", 0, 1024)),
        ("others", _others),
    ],
}


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table that also reads well as plain text: the first column left, the others right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = []
    for line in lines:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("| " + " | ".join(cells) + " |")
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [out[0], "| " + " | ".join(rule) + " |", *out[1:]]


def _ratios(kind: str, rows: list[Row]) -> list[str]:
    """Each figure divided by the floor's and the peers' in the same work; `*`: one side is incomplete."""
    out: list[str] = []
    against = [r for r in rows if r["peer"] and "error" not in r]

    def divided(row: Row, base: Row, key: str) -> str:
        star = "*" if incomplete(row) or incomplete(base) else ""
        return f"{row[key] / base[key]:.3g}{star}"

    for key, name in COMPARED[kind]:
        bases = [r for r in against if r.get(key)]
        quotients = [
            [row["title"], *(divided(row, base, key) for base in bases)]
            for row in rows
            if row.get(key) and row["service"] != FLOOR
        ]
        if bases and quotients:
            out += ["", f"{name} divided by that of", ""]
            out += table(["service", *(b["service"] for b in bases)], quotients)
    return out


def _about(row: Row) -> str:
    return f" ({row['about']})" if row.get("about") else ""


def _remarks(row: Row) -> list[str]:
    """What the columns do not say: how a loss is made up, disorder, closed connections, errors."""
    out = []
    if row.get("error"):
        return [f"{row['title']}: not measured: {row['error']}"]
    if row.get("missing") and "load" in row:
        parts = [f"{row['received']:,} of {row['expected']:,} arrived"]
        parts.append(f"{row['load']['holes']:,} skipped (a later one arrived)")
        if row.get("told") or row.get("told_unknown"):
            parts.append(
                f"{row['told']:,} told to clients in gap events ({row['told_unknown']} gaps without a number)"
            )
        if row.get("counted_by_service") is not None:
            parts.append(f"{row['counted_by_service']:,} dropped by the service's own count")
        parts.append(f"{row['missing'] - row['load']['holes']:,} had not come when the wait ended")
        if row["told"]:
            parts.append(
                "received + told = published"
                if row["accounted"]
                else "received + told differs from published"
            )
        out.append(f"{row['title']}: " + "; ".join(parts))
    if row.get("behind"):
        p = row["publisher"]
        out.append(
            f"{row['title']}: took only {p['published']:,} of {p['wanted']:,} messages "
            f"in {p['seconds']:.1f} s ({p['per_s']:,.0f}/s)"
        )
    for key in ("duplicates", "reordered", "refused", "closed", "blocked"):
        if row.get(key):
            out.append(f"{row['title']}: {key}: {row[key]:,}")  # noqa: PERF401
    if "cpu_us_per_heartbeat" in row and row["bytes_each"] == 0:
        out.append(f"{row['title']}: no heartbeat was seen")
    return out


def work_lines(work: dict[str, Any]) -> list[str]:
    """The tables of one work."""
    columns = COLUMNS[work["kind"]]
    rows = work["rows"]
    out = [f"## {work['title']}", "", work["how"], ""]
    good = [r for r in rows if "error" not in r]
    out += table(
        ["service", *(name for name, _ in columns)],
        [[r["title"], *(cell(r) for _, cell in columns)] for r in good],
    )
    remarks = [f"- {text}" for row in rows for text in _remarks(row)]
    if remarks:
        out += ["", *remarks]
    out += _ratios(work["kind"], rows)
    out += ["", "Commands:", "", *(f"- {r['title']}: `{r['command']}`{_about(r)}" for r in good), ""]
    return out


def summary_lines(results: dict[str, Any]) -> list[str]:
    """Where the service is ahead of the best peer of each work."""
    found = lines(results)
    if not found:
        return []

    def figure(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    head = ["work", "figure", OURS, "best peer", "its figure", "times as good"]
    rows = [
        [
            line.work,
            line.figure,
            figure(line.ours),
            line.peer_title,
            figure(line.peer),
            f"{line.ahead:.2f}" + ("" if line.complete else "*"),
        ]
        for line in found
    ]
    text = f"Above 1 {OURS} is ahead. A peer that lost messages counts only where every peer did (`*`)."
    return [f"## {OURS} beside the best peer of each work", "", text, "", *table(head, rows), ""]


def markdown(results: dict[str, Any]) -> str:
    meta = results["meta"]
    out = [
        "# Results",
        "",
        f"{meta['date']}, `{meta['command']}`",
        "",
        "How to read them: `benchmarks/README.md`. `!` marks a row during which other programs used more "
        f"than {NOISE_CORES} of a core; `*` a ratio in which one side did not deliver everything.",
        "",
    ]
    out += [f"- {note}" for note in meta["notes"]]
    out += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in meta["versions"].items()), ""]
    out += summary_lines(results)
    for work in results["works"]:
        out += work_lines(work)
    return "\n".join(out).rstrip() + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results.json and results.md, over those of the last run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (folder / "results.md").write_text(markdown(results))
