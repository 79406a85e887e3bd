"""Where traces go, by the variables that OpenTelemetry has for all programs, and whether somebody takes them
there.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import gzip
import re
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

import httpx

from trio_sse.http_answers import told
from trio_sse.settings import SettingsError
from trio_sse.version import __version__

ANSWER_SECONDS = 10.0
"""Time limit of a whole request: name look-up, connections, and the answer."""
MAX_ANSWER_BYTES = 64 * 1024
PATH = "v1/traces"
TO_LEAVE_OUT = "or leave SSE_TRACES_PER_SECOND out"


class Collector(NamedTuple):
    """A server that takes OTLP over HTTP, in protobuf."""

    url: str
    """It may have a login, and other secrets."""
    headers: dict[str, str]
    """They may have secrets."""
    compressed: bool
    context: ssl.SSLContext

    @property
    def address(self) -> str:
        """`url`, as far as anybody may see it."""
        return str(httpx.URL(self.url).copy_with(userinfo=b"", query=None))

    def client(self) -> httpx.AsyncClient:
        """A client for it, through the proxy that the environment names (HTTPS_PROXY, NO_PROXY). It has no
        time limits."""
        return httpx.AsyncClient(headers=self.headers, verify=self.context, timeout=None)  # noqa: S113

    def body(self, spans: bytes) -> bytes:
        """The body of a request."""
        return gzip.compress(spans, 1) if self.compressed else spans

    def problem(self) -> str | None:
        """Why it takes no traces, in a line, or None. Waits for it, so this is not for an event loop."""
        try:
            with (
                httpx.Client(headers=self.headers, verify=self.context, timeout=ANSWER_SECONDS) as client,
                client.stream("POST", self.url, content=self.body(b"")) as answer,
            ):
                return None if answer.is_success else f"the answer is {answer.status_code}"
        except Exception as error:  # noqa: BLE001  whatever a server may answer
            return told(error)[:200]


def configured(environment: Mapping[str, str]) -> Collector:
    """The collector that the environment names. Raises SettingsError if it cannot be used."""

    def value(name: str) -> str:
        # "empty" is "not set": https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
        own = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
        return own or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    if value("PROTOCOL") not in ("", "http/protobuf"):
        raise SettingsError(
            [
                "OTEL_EXPORTER_OTLP_PROTOCOL is not accepted: traces leave by http/protobuf only, to port "
                f"4318 of most collectors. Set it to that, {TO_LEAVE_OUT}."
            ]
        )
    compression = value("COMPRESSION")
    if compression not in ("", "none", "gzip"):
        raise SettingsError(
            [f"OTEL_EXPORTER_OTLP_COMPRESSION is not accepted: set it to gzip or none, {TO_LEAVE_OUT}."]
        )
    headers = {"user-agent": f"trio_sse/{__version__}", **_headers(value("HEADERS"))}
    headers["content-type"] = "application/x-protobuf"
    headers["accept-encoding"] = "identity"  # decompressed data has no bound
    if compression == "gzip":
        headers["content-encoding"] = "gzip"
    context = _context(value("CERTIFICATE"), value("CLIENT_CERTIFICATE"), value("CLIENT_KEY"))
    found = Collector(_url(environment), headers, compression == "gzip", context)
    try:
        found.client()
    except (ImportError, ValueError, httpx.InvalidURL):
        raise SettingsError(
            [
                "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not accepted: write it as http://host:port, "
                f"{TO_LEAVE_OUT}."
            ]
        ) from None
    return found


def _url(environment: Mapping[str, str]) -> str:
    name, path = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""
    url = environment.get(name, "").strip()
    if not url:
        name, path = "OTEL_EXPORTER_OTLP_ENDPOINT", PATH
        url = environment.get(name, "").strip() or "http://localhost:4318"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        raise SettingsError(
            [f"{name} is not accepted: write it as http://host:4318 or https://host, {TO_LEAVE_OUT}."]
        )
    return str(parsed.copy_with(path=f"{parsed.path.rstrip('/')}/{path}")) if path else url


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110, 5.1


def _headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, with values as in a URL."""
    found = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        fit = _NAME.fullmatch(name) and value.isascii() and value.isprintable() and value == value.strip()
        if not (equals and fit):
            raise SettingsError(
                [
                    "OTEL_EXPORTER_OTLP_HEADERS=(hidden) is not accepted: write name=value, with a comma "
                    f"between two, and values as in a URL (%20 for a space), {TO_LEAVE_OUT}."
                ]
            )
        found[name] = value
    return found


def _context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    try:
        # The system's certificates, to which an operator adds a private CA. httpx would use its own list.
        context = ssl.create_default_context(cafile=authority or None)
        if certificate:
            context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            [
                "OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE or _CLIENT_KEY is not accepted "
                f"({told(error)[:200]}): name PEM files, {TO_LEAVE_OUT}."
            ]
        ) from None
    return context
