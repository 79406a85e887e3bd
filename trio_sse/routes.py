"""What the service answers over HTTP when Quart does the answering."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import resources
from types import TracebackType
from typing import TYPE_CHECKING, cast

import msgspec
from quart import Blueprint, Response, current_app, request
from quart.wrappers.response import ResponseBody
from werkzeug.exceptions import HTTPException

from trio_sse.connection import StreamSource
from trio_sse.handshake import PREFLIGHT_HEADERS, Refused, cors_headers, handshake, problem

if TYPE_CHECKING:
    from trio_sse.service import Service

blueprint = Blueprint("trio_sse", __name__)

_PAGE = resources.files("trio_sse").joinpath("test-sse.html")

# The page is one file: whatever else it tried to load would be somebody else's.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src *; base-uri 'none'; form-action 'none'"
)


def _service() -> Service:
    return cast("Service", current_app._get_current_object())  # type: ignore[attr-defined]


@blueprint.get("/sse")
async def stream() -> Response:
    """The stream of one user."""
    service = _service()
    answer = handshake(request.scope["query_string"], request.scope["headers"], service.settings)
    if isinstance(answer, Refused):
        return Response(answer.body, answer.status, dict(answer.headers))
    response = Response(b"", 200, dict(answer.headers))
    del response.headers["content-length"]
    if request.method == "HEAD":
        return response
    response.response = StreamBody(service, answer.user_id, answer.last_event_id)
    response.timeout = None  # Quart would end the stream after 60 s
    return response


class StreamBody(ResponseBody):
    """A stream as a response body: joins the hub on entering, leaves it on leaving, however that comes."""

    def __init__(self, service: Service, user_id: str, last_event_id: str | None) -> None:
        self._service = service
        self._user_id = user_id
        self._last_event_id = last_event_id

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._connection = self._service.open_connection(self._user_id, self._last_event_id)
        self._source = StreamSource(self._connection)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._service.hub.leave(self._connection)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self._source.next()
        if data is None:
            raise StopAsyncIteration
        return data


@blueprint.get("/")
async def page() -> Response:
    """The test page."""
    headers = {"content-security-policy": _PAGE_POLICY, "cache-control": "no-cache"}
    return Response(_PAGE.read_bytes(), 200, headers, content_type="text/html; charset=utf-8")


@blueprint.get("/healthz")
async def healthz() -> Response:
    """The loop turns."""
    return _json({"status": "ok"})


@blueprint.get("/readyz")
async def readyz() -> Response:
    """200 while messages can arrive, else 503 and the reason."""
    service = _service()
    if reason := service.not_ready():
        return _problem(503, reason)
    return _json(
        {
            "status": "ready",
            "connections": len(service.hub),
            "users": len(service.hub.users),
            "totals": service.counters.snapshot(),
        }
    )


@blueprint.app_errorhandler(HTTPException)
async def http_error(error: HTTPException) -> Response:
    response = _problem(error.code or 500, error.description or "")
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


@blueprint.after_app_request
async def allow_other_origins(response: Response) -> Response:
    """CORS for every answer, errors too, by the same rule as for streams."""
    headers = cors_headers(request.headers.get("origin", ""), _service().settings)
    if request.method == "OPTIONS":
        headers += PREFLIGHT_HEADERS
    for name, value in headers:
        response.headers[name] = value
    return response


def _json(data: object) -> Response:
    return Response(
        msgspec.json.encode(data), 200, {"cache-control": "no-store"}, content_type="application/json"
    )


def _problem(status: int, detail: str) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(problem(status, detail), status, headers, content_type="application/problem+json")
