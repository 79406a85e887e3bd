"""Traces → spans of OpenTelemetry, as bytes for a collector."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trio_sse.delivery.traces import Trace
from trio_sse.version import __version__

SERVICE_NAME = "trio-sse"

# https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
_DELIVER = {
    "messaging.system": "redis",
    "messaging.operation.name": "deliver",
    "messaging.operation.type": "process",
}


class _Ended(SpanProcessor):
    """Keeps what has ended. The SDK's own processors export in a thread."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Spans:
    """Makes a span of each trace, as far as the sampler wants it (OTEL_TRACES_SAMPLER). `process` is the name
    that this one has in all that it tells; messages come by the channel, or the key, `destination`."""

    def __init__(self, process: str, destination: str) -> None:
        self._ended = _Ended()
        provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("trio_sse", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._destination = destination

    def encode(self, traces: Sequence[Trace]) -> tuple[bytes, int]:
        """The spans of these as an ExportTraceServiceRequest, and how many they are. One takes a tenth of a
        millisecond and more. Behind one another, several of these are one, as protobuf has it."""
        for trace in traces:
            self._add(trace)
        spans, self._ended.spans = self._ended.spans, []
        encoded: bytes = encode_spans(spans).SerializeToString() if spans else b""
        return encoded, len(spans)

    def _add(self, trace: Trace) -> None:
        carrier = {"traceparent": trace.context.traceparent, "tracestate": trace.context.tracestate}
        counts = {f"trio_sse.{outcome}": streams for outcome, streams in trace.outcomes.items()}
        span = self._tracer.start_span(
            f"deliver {self._destination}",
            context=self._propagator.extract(carrier, context=Context()),
            kind=SpanKind.CONSUMER,
            attributes={
                **_DELIVER,
                "messaging.destination.name": self._destination,
                "messaging.message.body.size": trace.size,
                "trio_sse.source": "log" if trace.from_log else "channel",
                "trio_sse.streams": trace.streams,
                **counts,
            },
            start_time=trace.began,
        )
        if span.is_recording():
            if trace.id is not None:
                span.set_attribute("messaging.message.id", trace.id)
            if trace.partition is not None:
                span.set_attribute("messaging.destination.partition.id", str(trace.partition.number))
            if trace.waiting:
                span.set_attribute("trio_sse.waiting", trace.waiting)
            span.add_event("offered to all streams", timestamp=trace.offered)
        span.end(end_time=trace.ended)


def refused(answer: bytes) -> tuple[int, str]:
    """How many of the spans that it got a collector refused, by the body of its answer, and why."""
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except Exception:  # noqa: BLE001  not protobuf; its errors have no public name
        return 0, ""
    return partial.rejected_spans, partial.error_message


def _resource(process: str) -> Resource:
    own: dict[str, str | int | Sequence[str]] = {
        "service.name": SERVICE_NAME,
        "service.version": __version__,
        "service.instance.id": process,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    chosen = OTELResourceDetector().detect().attributes  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    return Resource.create({name: value for name, value in own.items() if name not in chosen})
