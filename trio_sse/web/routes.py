"""The HTTP endpoints that Quart answers."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import cast

from quart import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from trio_sse.access.admission import STREAM_PATH
from trio_sse.access.cors import GUARDS, cors_headers, preflight_headers, wrong_host
from trio_sse.access.problem import Refused
from trio_sse.settings import UNIX, Settings
from trio_sse.web.bodies import MAX_BODY, Body
from trio_sse.web.replies import problem_reply
from trio_sse.web.serving import serving
from trio_sse.web.stream_body import StreamBody

blueprint = Blueprint("trio_sse", __name__)

_PAGE = resources.files("trio_sse").joinpath("test-sse.html")

ROOT_PATH = "trio_sse.root_path"
"""Key in a scope: the path prefix of the service."""

_TOLD = b'<meta name="%b" content="%b">'
"""Where the page is told of the service: empty as long as the page is only a file."""

# The page is one file. Anything else that it tries to load does not belong to it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.before_app_request
async def refuse_long_body() -> Response | None:
    """Refuse a body that is too long. POST /publish reads its body and checks the bound itself."""
    unread = request.method != "POST" and request.routing_exception is None
    if unread and _body().too_long:
        return problem_reply(413, f"the body has more than {MAX_BODY} bytes")
    return None


def _body() -> Body:
    return cast(Body, request.body)


@blueprint.get(STREAM_PATH)
async def stream() -> Response:
    """The stream of one user."""
    service = serving()
    answer = await service.admission.admit(request.scope["query_string"], request.scope["headers"], _peer)
    if isinstance(answer, Refused):
        return Response(answer.body, answer.status, dict(answer.headers))
    response = Response(b"", 200, dict(answer.headers))
    del response.headers["content-length"]
    if request.method == "HEAD":
        return response
    stream_body = StreamBody(service, answer)
    _body().ignore(stream_body.end)
    response.response = stream_body
    response.timeout = None  # Quart would end the stream after 60 s
    return response


def _peer() -> str:
    client = request.scope.get("client")
    return client[0] if client else UNIX


@blueprint.get("/")
async def page() -> Response:
    """The test page."""
    headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
    settings = serving().settings
    told = {
        "root-path": str(request.scope.get(ROOT_PATH, settings.root_path)),
        "redis-channel": settings.redis_channel,
        "redis-routing": _routing(settings),
    }
    html = _PAGE.read_bytes()
    for name, value in told.items():
        html = html.replace(_TOLD % (name.encode(), b""), _TOLD % (name.encode(), escape(value).encode()))
    return Response(html, 200, headers, content_type="text/html; charset=utf-8")


def _routing(settings: Settings) -> str:
    """How the page is to send a message: see `redisCommand` in it."""
    if settings.partitioned:
        at = f"-c {settings.redis_stream}" if settings.redis_cluster else str(settings.redis_stream)
        return f"partitions {settings.stream_partitions} {settings.redis_database} {at}"
    return "cluster" if settings.redis_cluster else "by-key" if settings.by_key else "shared"


@blueprint.app_errorhandler(HTTPException)
async def http_error(error: HTTPException) -> Response:
    response = problem_reply(error.code or 500, error.description or "")
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


@blueprint.before_app_request
async def refuse_other_hosts() -> Response | None:
    """Refuse other hosts on every path, by the same rule as for streams."""
    if misdirected := wrong_host(request.headers.get("host", ""), serving().settings):
        return problem_reply(421, misdirected)
    return None


@blueprint.after_app_request
async def allow_other_origins(response: Response) -> Response:
    """Add CORS to every answer, errors too, by the same rule as for streams."""
    settings = serving().settings
    headers = cors_headers(request.headers.get("origin", ""), settings)
    if request.method == "OPTIONS":
        headers += preflight_headers(settings)
    for name, value in headers:
        response.headers[name] = value
    for name, value in GUARDS:
        response.headers.setdefault(name, value)
    return response
