"""The variables of OpenTelemetry that say where traces go."""

from __future__ import annotations

import pytest

from tests.support.collector import collector
from tests.support.secure import files
from trio_sse.settings import SettingsError
from trio_sse.tracing.collector import configured

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({ENDPOINT: " "}, "http://localhost:4318/v1/traces"),
        ({ENDPOINT: "http://otel:4318"}, "http://otel:4318/v1/traces"),
        ({ENDPOINT: "https://otel/base/"}, "https://otel/base/v1/traces"),
        ({TRACES_ENDPOINT: "https://otel/own"}, "https://otel/own"),
        ({ENDPOINT: "https://otel/a%20b?key=1"}, "https://otel/a%20b/v1/traces?key=1"),
        ({ENDPOINT: "http://other", TRACES_ENDPOINT: "http://[::1]:4318/own"}, "http://[::1]:4318/own"),
    ],
)
def test_the_address_is_that_of_all_signals_or_that_of_traces(environment: dict[str, str], url: str) -> None:
    assert configured(environment).url == url


def test_headers_are_those_of_all_or_those_of_traces_and_their_values_are_as_in_a_url() -> None:
    given = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20abc=, x-org = 7 ,"}
    headers = configured(given).headers
    assert (headers["authorization"], headers["x-org"]) == ("Bearer abc=", "7")
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["user-agent"].startswith("trio_sse/")
    assert headers["accept-encoding"] == "identity"
    own = configured({**given, "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-org=8"}).headers
    assert (own["x-org"], "authorization" in own) == ("8", False)


def test_what_is_sent_is_compressed_where_that_is_asked_for() -> None:
    assert configured({}).body(b"abc") == b"abc"
    compressed = configured({"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.body(b"abc")[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENDPOINT, "otel:4318"),
        (ENDPOINT, "grpc://otel:4317"),
        (ENDPOINT, "http://"),
        (TRACES_ENDPOINT, "http://otel:port"),
        (ENDPOINT, "http://127.0.0.1:65536"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a secret=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret=a%0d%0ab: c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a:b=secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%20secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "=secret"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_variable_and_no_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        configured({name: value})
    (line,) = raised.value.lines
    assert name in line
    assert "secret" not in line
    assert "SSE_TRACES_PER_SECOND" in line


def test_a_private_authority_and_a_certificate_of_ones_own_are_pem_files() -> None:
    certificate, key = map(str, files())
    configured(
        {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": certificate,
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificate,
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": key,
        }
    )
    with pytest.raises(SettingsError, match="_CLIENT_KEY is not accepted"):
        configured({"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": key})


def test_what_may_be_seen_of_the_address_has_no_secrets() -> None:
    there = configured({TRACES_ENDPOINT: "https://user:secret@otel/own?key=secret"})
    assert there.address == "https://otel/own"


@pytest.mark.parametrize("proxy", ["socks5://there:1", "ftp://there:1", "http://a:b:secret"])
def test_a_proxy_that_cannot_be_used_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(SettingsError, match="HTTPS_PROXY") as raised:
        configured({})
    assert "secret" not in str(raised.value)


def test_a_name_that_cannot_be_one_is_a_problem_like_all_others() -> None:
    assert "label" in (configured({ENDPOINT: "http://a..b:4318"}).problem() or "")


def test_whether_somebody_takes_traces_there() -> None:
    with collector() as there:
        configuration = configured({ENDPOINT: there.url})
        assert configuration.problem() is None
        there.status = 401
        assert configuration.problem() == "the answer is 401"
    assert "refused" in (configuration.problem() or "")
