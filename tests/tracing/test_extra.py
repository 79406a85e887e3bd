"""OpenTelemetry is there only where it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.collector import traceparent
from tests.support.inside import flush_now, opened, settings
from trio_sse.delivery.intake import Intake
from trio_sse.service import Service
from trio_sse.settings import SettingsError
from trio_sse.tracing.extra import check

LOADED = """
import sys
if not {per_second}:
    sys.modules["opentelemetry"] = sys.modules["google"] = None  # as if the extra was not there
from trio_sse.service import Service
from trio_sse.settings import Settings
from trio_sse.web.app import App
App(Service(Settings(traces_per_second={per_second})))
print(*sys.modules)
"""
PARTS = {"opentelemetry.exporter.otlp.proto.common", "google.protobuf", "httpx"}


@pytest.mark.parametrize(("per_second", "there"), [(0, set[str]()), (1, PARTS)])
def test_nothing_of_it_is_imported_without_the_setting(per_second: int, there: set[str]) -> None:
    """redis-py imports a part of it by itself where it is installed."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(per_second=per_second)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert PARTS & set(done.stdout.split()) == there


@pytest.mark.parametrize("name", ["opentelemetry.sdk.trace", "opentelemetry.proto", "opentelemetry"])
def test_without_the_extra_the_setting_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules):
        if module.startswith(("opentelemetry", "trio_sse.tracing.")) and module != "trio_sse.tracing.extra":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError) as raised:
        Service(settings(traces_per_second=1))
    (line,) = raised.value.lines
    assert "pip install 'trio-sse[otel]'" in line


def test_a_collector_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4317")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT is not accepted"):
        Service(settings(traces_per_second=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "many"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1"),
        ("OTEL_SERVICE_NAME", "\udcff"),
    ],
)
def test_a_variable_that_cannot_be_used_is_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    check(settings())
    with pytest.raises(SettingsError) as raised:
        check(settings(traces_per_second=1))
    (line,) = raised.value.lines
    assert line.startswith(name)
    assert "SSE_TRACES_PER_SECOND" in line


async def test_a_stream_that_ends_tells_what_it_did_not_get() -> None:
    service = Service(settings(traces_per_second=1))
    connection = opened(service, "ann")
    message = {"user_id": "ann", "traceparent": traceparent()}
    Intake(service.hub, 1000).receive(json.dumps(message).encode())
    flush_now(service.hub)
    service.release(connection)
    assert service.hub.traces is not None
    assert [trace.outcomes for trace in service.hub.traces.finished] == [{"unsent": 1}]


def test_without_the_setting_no_stream_is_recorded() -> None:
    service = Service(settings())
    assert service.hub.traces is None
