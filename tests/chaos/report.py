"""Results as lines, and as the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.chaos.runner import Result
from tests.chaos.scenarios import SCENARIOS

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN = "<!-- The table is written by `nox -s chaos -- --write`. -->"
END = "<!-- end of the table -->"

COLUMNS = (
    "fault",
    "source",
    "published",
    "received live",
    "replayed",
    "covered by `gap`",
    "superseded, expired",
    "lost",
    "duplicated",
    "flows again after",
)


def line(result: Result) -> str:
    """One line for the terminal."""
    name = f"{result.scenario.name:24} {result.source:8}"
    if result.left_out:
        return f"LEFT OUT {name} {result.left_out}"
    count = result.count
    return (
        f"{'FAILED' if result.problem else 'ok':8} {name} published {count.published} = live {count.live}"
        f" + replayed {count.replayed} + covered {count.covered} + superseded {count.superseded}"
        f" + expired {count.expired}, lost {count.lost},"
        f" duplicated {count.duplicated}, gaps {count.gaps}, flows again after {_seconds(result)},"
        f" took {result.took:.1f} s"
    )


HEAD = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]


def table(results: Iterable[Result], before: str = "") -> str:
    """In the order of the scenarios. What was not played has its row of the table `before`."""
    rows = {_case(row): row for row in before.splitlines()}
    for result in results:
        count = result.count
        numbers = [
            f"{number:,}"
            for number in (
                count.published,
                count.live,
                count.replayed,
                count.covered,
                count.superseded + count.expired,
                count.lost,
                count.duplicated,
            )
        ]
        if result.left_out:
            numbers = ["left out", *"——————"]
        row = "| " + " | ".join([result.scenario.fault, result.source, *numbers, _seconds(result)]) + " |"
        rows[_case(row)] = row
    cases = [(scenario.fault, source) for scenario in SCENARIOS for source in scenario.sources]
    return "\n".join([*HEAD, *(rows[case] for case in cases if case in rows)])


def _case(row: str) -> tuple[str, ...]:
    """Fault and source."""
    return tuple(cell.strip() for cell in row.split("|")[1:3])


def write(results: Iterable[Result]) -> None:
    """Put the table between its marks."""
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    old, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no marks for the table in {DOCUMENT}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(results, old)}\n\n{END}{after}")


def _seconds(result: Result) -> str:
    return "-" if result.seconds is None else f"{result.seconds:.1f} s"
