"""Traces of messages, for OpenTelemetry. Needs the extra `trio-sse[otel]`."""
