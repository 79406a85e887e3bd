"""`GET /metrics`, for whoever has SSE_METRICS_TOKEN."""

from __future__ import annotations

from quart import Blueprint, Response, request

from trio_sse.access.operator_tokens import may_read_counts
from trio_sse.web.replies import needs_token
from trio_sse.web.serving import serving

blueprint = Blueprint("metrics", __name__)

PATH = "/metrics"


@blueprint.get(PATH)
async def metrics() -> Response:
    """What all workers count, as Prometheus reads it."""
    service = serving()
    if not may_read_counts(request.headers.get("authorization", ""), service.settings):
        return needs_token("metrics", "SSE_METRICS_TOKEN")
    text, content_type = await service.metrics.text(request.headers.get("accept", ""))
    return Response(text, 200, {"cache-control": "no-store"}, content_type=content_type)
