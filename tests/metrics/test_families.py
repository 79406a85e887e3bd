"""The metrics there are."""

from __future__ import annotations

import re

from trio_sse.counters import Balance
from trio_sse.metrics.families import FAMILIES


def test_names_are_those_that_prometheus_asks_for() -> None:
    """https://prometheus.io/docs/practices/naming"""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch("[a-z][a-z_]+[a-z]", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert family.meaning.endswith(".")
        assert bool(family.bounds) == (family.kind == "histogram")
        assert bool(family.label) == bool(family.values)


def test_each_part_of_the_balance_is_there_from_the_start() -> None:
    values = {family.name: set(family.values) for family in FAMILIES}
    assert values["delivered"] | values["declared"] | {"published", "owed"} == set(Balance.__slots__)


def test_no_label_grows_with_users() -> None:
    labels = {family.label for family in FAMILIES} - {""}
    assert labels == {"reason", "source", "way", "state", "result", "since"}
