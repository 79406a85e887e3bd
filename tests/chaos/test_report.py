"""The table in docs/reliability.md keeps what was not played."""

from __future__ import annotations

from tests.chaos.ledger import Count
from tests.chaos.report import HEAD, table
from tests.chaos.runner import Result
from tests.chaos.scenarios import SCENARIOS


def result(place: int, live: int) -> Result:
    scenario = SCENARIOS[place]
    return Result(scenario, scenario.sources[0], Count(live=live), seconds=0.1)


def test_rows_stand_in_the_order_of_the_scenarios() -> None:
    rows = table([result(2, 2), result(1, 1)]).splitlines()
    assert rows[:2] == HEAD
    assert [row.split("|")[4].strip() for row in rows[2:]] == ["1", "2"]


def test_what_was_not_played_keeps_its_row() -> None:
    before = table([result(0, 1), result(2, 2)])
    rows = table([result(1, 3), result(2, 4)], before).splitlines()
    assert [row.split("|")[4].strip() for row in rows[2:]] == ["1", "3", "4"]


def test_what_is_no_scenario_any_more_has_no_row() -> None:
    gone = table([result(0, 1)]).replace(SCENARIOS[0].fault, "a fault of old")
    assert table([], gone).splitlines() == HEAD
