"""What Prometheus reads, as its own parser understands it."""

from __future__ import annotations

import subprocess

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.tools import tool
from trio_sse.counters import DELAY_SECONDS, Counters, Histogram
from trio_sse.metrics.exposition import exposition
from trio_sse.metrics.report import totals_of
from trio_sse.version import __version__

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def counted() -> Counters:
    counters = Counters()
    counters.balance.published, counters.balance.direct, counters.balance.owed = 7, 4, 3
    counters.gaps["a_new_reason"] = 2
    counters.flushes[1], counters.flushes[5], counters.flushes[40] = 1, 2, 3
    counters.flushed = 1000
    for seconds in (0.0004, 0.2, 0.2, 90):
        counters.delays.setdefault("log", Histogram(DELAY_SECONDS)).observe(seconds)
    return counters


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_number_is_there_under_its_name() -> None:
    text, content_type = exposition(totals_of(counted(), {"forbidden": 9}), "")
    assert content_type.startswith("text/plain; version=")
    found = samples(text.decode())
    assert found["trio_sse_info", __version__] == 1
    assert found["trio_sse_published_to_streams_total",] == 7
    assert found["trio_sse_delivered_total", "direct"] == 4
    assert found["trio_sse_delivered_total", "buffered"] == 0  # from the start
    assert found["trio_sse_owed",] == 3
    assert found["trio_sse_refused_total", "forbidden"] == 9
    assert found["trio_sse_gaps_total", "a_new_reason"] == 2


def test_buckets_have_all_below_them() -> None:
    found = samples(exposition(totals_of(counted(), {}), "")[0].decode())
    name = "trio_sse_delivery_seconds"
    assert [found[f"{name}_bucket", bound, "log"] for bound in ("0.0005", "0.1", "0.25", "60.0", "+Inf")] == [
        *(1, 1, 3, 3, 4)
    ]
    assert (found[f"{name}_count", "log"], found[f"{name}_count", "receipt"]) == (4, 0)
    flushes = "trio_sse_flush_messages"
    assert [found[f"{flushes}_bucket", bound] for bound in ("1.0", "7.0", "31.0", "524287.0", "+Inf")] == [
        *(1, 1, 3, 3, 6)
    ]
    assert found[f"{flushes}_sum",] == 1000


def test_whoever_asks_for_openmetrics_gets_it() -> None:
    text, content_type = exposition(totals_of(counted(), {}), OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    found = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family for family in found}
    assert families["trio_sse_published_to_streams"].samples[0].value == 7


def test_promtool_has_nothing_to_say() -> None:
    text, _ = exposition(totals_of(counted(), {}), "")
    command = [tool("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
