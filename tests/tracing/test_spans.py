"""What a collector gets to know of a message."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.collector import PARENT, TRACE, traceparent, values
from trio_sse.counters import Counters
from trio_sse.delivery.partitions import Partition
from trio_sse.delivery.traces import Context, Trace, Traces
from trio_sse.tracing.spans import Spans, refused

BEGAN, OFFERED, ENDED = 1_700_000_000_000_000_000, 1_700_000_000_001_000_000, 1_700_000_002_000_000_000


@pytest.fixture(autouse=True)
def no_choice_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def trace(parent: str = "", state: str = "", **more: Any) -> Trace:
    made = Trace(Context(parent or traceparent(), state), 40, BEGAN, Traces(1, Counters()))
    made.offered, made.ended, made.id = OFFERED, ENDED, "p.1"
    made.outcomes = {"taken": 3, "dropped": 1}
    for name, value in more.items():
        setattr(made, name, value)
    return made


def encoded(*traces: Trace) -> tuple[list[Span], dict[str, Any]]:
    """The spans, and the resource."""
    body, count = Spans("process-1", "notes").encode(traces)
    request = ExportTraceServiceRequest.FromString(body)
    found = [span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]
    assert len(found) == count
    resources = [values(group.resource.attributes) for group in request.resource_spans]
    return found, resources[0] if resources else {}


def test_it_belongs_to_the_trace_of_the_publisher() -> None:
    (span,), _ = encoded(trace(state="vendor=7"))
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=7"
    assert span.name == "deliver notes"
    assert span.kind == Span.SPAN_KIND_CONSUMER


def test_it_lasts_from_the_arrival_to_the_last_stream() -> None:
    (span,), _ = encoded(trace())
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (BEGAN, ENDED)
    (event,) = span.events
    assert (event.name, event.time_unix_nano) == ("offered to all streams", OFFERED)


def test_it_says_what_became_of_the_message() -> None:
    (span,), _ = encoded(trace())
    assert values(span.attributes) == {
        "messaging.system": "redis",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": "notes",
        "messaging.message.id": "p.1",
        "messaging.message.body.size": 40,
        "trio_sse.source": "channel",
        "trio_sse.streams": 4,
        "trio_sse.taken": 3,
        "trio_sse.dropped": 1,
    }
    left = trace(from_log=True, partition=Partition(8, 5), id=None, waiting=2)
    (span,), _ = encoded(left)
    found = values(span.attributes)
    assert found["trio_sse.source"] == "log"
    assert found["messaging.destination.partition.id"] == "5"
    assert (found["trio_sse.streams"], found["trio_sse.waiting"]) == (6, 2)
    assert "messaging.message.id" not in found


def test_the_process_has_a_name_and_the_service_one_that_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, resource = encoded(trace())
    assert resource["service.name"] == "trio-sse"
    assert resource["service.instance.id"] == "process-1"
    assert resource["host.name"] == socket.gethostname()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "notices")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging,host.name=web-1")
    _, resource = encoded(trace())
    assert (resource["service.name"], resource["host.name"]) == ("notices", "web-1")
    assert resource["deployment.environment.name"] == "staging"


def test_the_sampler_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(encoded(trace(), trace())[0]) == 2
    assert encoded(trace(traceparent(sampled=False)))[0] == []
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert encoded(trace())[0] == []
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    half = [trace(traceparent(trace=f"{number:032x}")) for number in range(1, 1 << 10)]
    for one, number in zip(half, range(len(half)), strict=True):
        one.context = Context(traceparent(trace=f"{number << 54 | 1:032x}"))
    assert 450 < len(encoded(*half)[0]) < 570


def test_several_requests_behind_one_another_are_one() -> None:
    spans = Spans("process-1", "notes")
    together = b"".join(spans.encode([trace()])[0] for _ in range(3))
    request = ExportTraceServiceRequest.FromString(together)
    assert sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans) == 3


def test_an_answer_that_is_no_answer_refuses_nothing() -> None:
    assert refused(b"") == (0, "")
    assert refused(b"<html>") == (0, "")
