"""Alerts and dashboard: Prometheus' own tool reads them, and somebody says what to do."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.tools import ROOT, tool

MONITORING = ROOT / "deploy" / "monitoring"
RULES = [
    rule
    for group in yaml.safe_load(MONITORING.joinpath("alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads(MONITORING.joinpath("dashboard.json").read_text())


def promtool(*arguments: str) -> None:
    command = [tool("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_reads_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml")


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts.test.yaml")


def test_each_alert_is_tried() -> None:
    tried = MONITORING.joinpath("alerts.test.yaml").read_text()
    assert [rule["alert"] for rule in RULES if rule["alert"] not in tried] == []


@pytest.mark.parametrize("runbook", ["runbook.md", "runbook.zh-CN.md"])
def test_each_alert_has_its_page_in_the_runbook(runbook: str) -> None:
    headings = re.findall(r"^## (TrioSse\w+)$", ROOT.joinpath("docs", runbook).read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    """Each has a place of its own on a grid of 24 columns, a title, and says what it shows."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
