"""The numbers of all workers → the text that Prometheus reads."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from trio_sse.metrics.families import FAMILIES, Family
from trio_sse.version import __version__

PREFIX = "trio_sse_"


def exposition(numbers: dict[str, float], accept: str) -> tuple[bytes, str]:
    """The text, and its content type: the newest format that `accept` names, a header field."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Numbers(numbers))
    return encode(registry), content_type


class _Numbers(Collector):
    def __init__(self, numbers: dict[str, float]) -> None:
        self._numbers = numbers

    def describe(self) -> list[Metric]:
        """Nothing else is in the registry, so no names can clash."""
        return []

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(f"{PREFIX}info", "Which version it is. Always 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        for family in FAMILIES:
            yield self._metric(family)

    def _metric(self, family: Family) -> Metric:
        name, labels = PREFIX + family.name, [family.label] if family.label else []
        if family.kind == "histogram":
            metric = HistogramMetricFamily(name, family.meaning, labels=labels)
            for value in self._values(family):
                key = _key(family, value)
                metric.add_metric(
                    [value] if labels else [], self._buckets(key, family), self._of(f"{key}/sum")
                )
            return metric
        make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        simple: CounterMetricFamily | GaugeMetricFamily = make(name, family.meaning, labels=labels)
        for value in self._values(family):
            simple.add_metric([value] if labels else [], self._of(_key(family, value)))
        return simple

    def _of(self, key: str) -> float:
        return self._numbers.get(key, 0)

    def _values(self, family: Family) -> list[str]:
        """The values of its label, also of those that are not there from the start."""
        if not family.label:
            return [""]
        start = f"{family.name}:"
        found = (key.removeprefix(start).partition("/")[0] for key in self._numbers if key.startswith(start))
        return list(dict.fromkeys((*family.values, *sorted(found))))

    def _buckets(self, key: str, family: Family) -> list[tuple[str, float]]:
        """Each with the counts of all below it (Prometheus: cumulative)."""
        cells = {
            float(name.rpartition("/")[2]): count
            for name, count in self._numbers.items()
            if name.startswith(f"{key}/") and not name.endswith("/sum")
        }
        bounds = (*family.bounds, math.inf)
        return [
            (_text(bound), sum(count for upper, count in cells.items() if upper <= bound)) for bound in bounds
        ]


def _key(family: Family, value: str) -> str:
    return f"{family.name}:{value}" if family.label else family.name


def _text(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
