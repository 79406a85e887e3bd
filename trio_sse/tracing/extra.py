"""The one door to OpenTelemetry: without SSE_TRACES_PER_SECOND nothing of it is imported."""

from __future__ import annotations

import os
from typing import Protocol

import trio

from trio_sse.counters import Counters
from trio_sse.delivery.traces import Traces
from trio_sse.settings import Settings, SettingsError


class Running(Protocol):
    """A part of the service with a task of its own."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...


def check(settings: Settings) -> None:
    """Raise SettingsError as `exporter` does."""
    if settings.traces_per_second:
        counters = Counters()
        exporter(settings, Traces(settings.traces_per_second, counters), counters, "")


def exporter(settings: Settings, traces: Traces, counters: Counters, process: str) -> Running:
    """What sends the traces of this process. Raises SettingsError if the extra is not installed, or if a
    variable of OpenTelemetry cannot be used."""
    try:
        from trio_sse.tracing.collector import TO_LEAVE_OUT, configured
        from trio_sse.tracing.exporter import Exporter
        from trio_sse.tracing.spans import Spans
    except ImportError as error:
        raise SettingsError(
            [
                f"SSE_TRACES_PER_SECOND needs OpenTelemetry ({error}): pip install 'trio-sse[otel]', or "
                "leave the setting out."
            ]
        ) from None
    for name, value in os.environ.items():
        if name.startswith("OTEL_") and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise SettingsError([f"{name} is not accepted: it is not UTF-8, {TO_LEAVE_OUT}."]) from None
    collector = configured(os.environ)
    try:
        spans = Spans(process, settings.redis_stream or settings.redis_channel)
    except ValueError as error:  # of a limit, which it names
        raise SettingsError([f"{error}: set it to a number, {TO_LEAVE_OUT}."]) from None
    return Exporter(traces, counters, spans, collector)
