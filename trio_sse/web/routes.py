"""The HTTP endpoints that Quart answers."""

from __future__ import annotations

from typing import cast

from quart import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from trio_sse.access.admission import STREAM_PATH
from trio_sse.access.cors import GUARDS, cors_headers, preflight_headers, wrong_host
from trio_sse.access.problem import Refused
from trio_sse.settings import Settings
from trio_sse.web.bodies import MAX_BODY, Body
from trio_sse.web.pages import page_reply
from trio_sse.web.replies import problem_reply
from trio_sse.web.serving import peer, serving
from trio_sse.web.stream_body import StreamBody

blueprint = Blueprint("trio_sse", __name__)


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
    answer = await service.admission.admit(request.scope["query_string"], request.scope["headers"], peer)
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


@blueprint.get("/")
async def page() -> Response:
    """The test page."""
    settings = serving().settings
    told = {"redis-channel": settings.redis_channel, "redis-routing": _routing(settings)}
    return page_reply("test-sse.html", told)


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
