"""What stands where traces go: takes spans over HTTP, as a collector of OpenTelemetry does."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(*, trace: str = TRACE, sampled: bool = True) -> str:
    return f"00-{trace}-{PARENT}-0{sampled:d}"


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as Python has them."""
    found: dict[str, Any] = {}
    one: KeyValue
    for one in attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found


class Collector:
    """Takes spans, unless its answer is to be another one."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.more: dict[str, str] = {}
        """Further headers of the answer."""
        self.body = b""
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.requests: list[dict[str, str]] = []
        """The headers of all requests, whatever they got."""
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refuse_some(self, count: int, why: str) -> None:
        """Answer that so many spans of each request are refused."""
        partial = ExportTracePartialSuccess(rejected_spans=count, error_message=why)
        self.body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.paths.add(path)
        self.requests.append(headers)
        if self.status != 200:
            return
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(values(group.resource.attributes))
            for scope in group.scope_spans:
                self.spans += scope.spans


@contextmanager
def collector(context: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """One that runs as long as the block lasts; over TLS with a `context`."""
    taking = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            taking.take(self.path, headers, self.rfile.read(int(headers["content-length"])))
            self.send_response(taking.status)
            for name, value in {"Content-Length": str(len(taking.body)), **taking.more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(taking.body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", taking.port), Handler) as server:
        taking.port = server.server_address[1]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield taking
        finally:
            server.shutdown()
            thread.join()
