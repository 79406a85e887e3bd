"""What `/metrics` says, read by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, ...], float]
"""By name, without `trio_sse_`, and values of labels in the order of their names."""


def samples(text: str) -> Samples:
    return {
        (
            sample.name.removeprefix("trio_sse_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Samples, name: str) -> float:
    """The sum over all values of its label."""
    return sum(value for key, value in found.items() if key[0] == name)


def undeclared(found: Samples) -> float:
    """What was lost without a word: 0."""
    accounted = total(found, "delivered_total") + total(found, "declared_total") + found["owed",]
    return found["published_to_streams_total",] - accounted
