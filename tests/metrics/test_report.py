"""What one worker reports."""

from __future__ import annotations

import math
from dataclasses import fields

from trio_sse.counters import DELAY_SECONDS, Balance, Counters, Histogram
from trio_sse.metrics.families import FAMILIES
from trio_sse.metrics.report import totals_of


def test_every_counter_is_reported() -> None:
    numbers = Counters()
    for place, field in enumerate(fields(Counters), 2):
        if type(getattr(numbers, field.name)) is int:
            setattr(numbers, field.name, 1000 * place)
    for place, field in enumerate(fields(Balance), 2):
        setattr(numbers.balance, field.name, 100_000 * place)
    told = set(totals_of(numbers, {}).values())
    # What the balance has is counted by stream there; what is refused and bad has its reasons.
    elsewhere = {"rejected", "dropped", "superseded", "expired", "overloaded"}
    for field in fields(Counters):
        value = getattr(numbers, field.name)
        if type(value) is int and field.name not in elsewhere | {"received"}:
            assert value in told, field.name
    for field in fields(Balance):
        assert getattr(numbers.balance, field.name) in told, field.name
    assert numbers.received - numbers.from_log in told


def test_reasons_and_histograms_have_names_of_their_own() -> None:
    numbers = Counters()
    numbers.gaps["slow_client"], numbers.bad["not_json"] = 1, 2
    numbers.flushes[3], numbers.flushed = 4, 20
    numbers.delays["log"] = Histogram(DELAY_SECONDS)
    numbers.delays["log"].observe(0.3)
    numbers.delays["log"].observe(100)
    numbers.loop_lag.observe(0.002)
    told = totals_of(numbers, {"forbidden": 5})
    assert (told["gaps:slow_client"], told["bad_messages:not_json"], told["refused:forbidden"]) == (1, 2, 5)
    assert (told["flush_messages/7"], told["flush_messages/sum"]) == (4, 20)
    assert (told["delivery_seconds:log/0.5"], told["delivery_seconds:log/inf"]) == (1, 1)
    assert math.isclose(told["delivery_seconds:log/sum"], 100.3)
    assert told["event_loop_lag_seconds/0.0025"] == 1


def test_no_number_is_reported_that_no_metric_has() -> None:
    names = {family.name for family in FAMILIES}
    assert {name.partition("/")[0].partition(":")[0] for name in totals_of(Counters(), {})} <= names
