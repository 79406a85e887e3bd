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


def exporter(settings: Settings, traces: Traces, counters: Counters, process: str) -> Running:
    """What sends the traces of this process. Raises SettingsError if the extra is not installed, or the
    environment names a collector that cannot be used."""
    try:
        from trio_sse.tracing.collector import configured
        from trio_sse.tracing.exporter import Exporter
        from trio_sse.tracing.spans import Spans
    except ImportError as error:
        raise SettingsError(
            [
                f"SSE_TRACES_PER_SECOND needs OpenTelemetry ({error}): pip install 'trio-sse[otel]', or "
                "leave the setting out."
            ]
        ) from None
    destination = settings.redis_stream or settings.redis_channel
    return Exporter(traces, counters, Spans(process, destination), configured(os.environ))
