"""`GET /healthz`, which fails slowly, and `GET /readyz`, which fails at once. Anybody may ask, so they say
whether and why, and where SSE_METRICS_TOKEN is set nothing else."""

from __future__ import annotations

from quart import Blueprint, Response, request

from trio_sse.access.operator_tokens import may_read_counts
from trio_sse.web.replies import json_reply, problem_reply
from trio_sse.web.serving import serving

blueprint = Blueprint("health", __name__)

_NOT_READY = {
    "stopping": "stopping",
    "redis_not_tried": "Redis was not tried yet (redis_not_tried)",
    "redis_unreachable": "Redis is not reachable (redis_unreachable): the log says why",
    "redis_refused": "Redis refuses the service (redis_refused): the log says why",
    "redis_subscribing": "subscribing at Redis again (redis_subscribing)",
    "redis_silent": "Redis does not answer (redis_silent)",
    "canary_lost": "what is published to Redis does not come back (canary_lost): the log says more",
    "no_descriptors": "hardly any file can be opened any more (no_descriptors): LimitNOFILE, ulimit -n",
}


@blueprint.get("/healthz")
async def healthz() -> Response:
    """200 while the event loops of all workers turn; 503 if one has not turned for 5 s.

    A worker that stands still answers nothing. So another one says so for it, and the worker itself to
    whoever has asked meanwhile.
    """
    if stuck := await serving().stuck():
        code, detail = stuck
        return _for_any_page(problem_reply(503, f"{detail} ({code})", more={"code": code}))
    return _for_any_page(json_reply({"status": "ok"}))


@blueprint.get("/readyz")
async def readyz() -> Response:
    """200 while messages can arrive, else 503 and the reason, of this worker; counts of all workers, for
    whoever may read them. The answer does not say where Redis is; the log does. `publish`: whether there is
    POST /publish."""
    service = serving()
    publish = bool(service.settings.publish_token_list)
    if service.not_ready():
        code = service.not_ready_code
        more = {"code": code, "publish": publish}
        return _for_any_page(problem_reply(503, _NOT_READY[code], more=more))
    if not may_read_counts(request.headers.get("authorization", ""), service.settings):
        return _for_any_page(json_reply({"status": "ready", "publish": publish}))
    counts = await service.siblings.counts()
    return _for_any_page(
        json_reply(
            {
                "status": "ready",
                "workers": counts.workers,
                "connections": counts.connections,
                "users": len(counts.users),
                "publish": publish,
                "totals": counts.totals,
            }
        )
    )


def _for_any_page(response: Response) -> Response:
    """Let any page see that there is an answer, so that it can tell a service that is down from one that
    refuses its origin. Only CORS lets a page read the answer."""
    response.headers["cross-origin-resource-policy"] = "cross-origin"
    return response
