"""`GET /position`: the id that stands for now. A page that opens its stream with it misses nothing that is
published after it was rendered."""

from __future__ import annotations

from quart import Blueprint, Response, request

from trio_sse.web.publish import publish_token
from trio_sse.web.replies import json_reply, problem_reply
from trio_sse.web.serving import serving

blueprint = Blueprint("position", __name__)

PATH = "/position"
RETRY_SECONDS = 1


@blueprint.get(PATH)
async def position() -> Response:
    """The `last_event_id` of a stream that begins now."""
    service = serving()
    if not service.settings.public_position and publish_token(request, service.publishers) is None:
        detail = "Authorization: Bearer with one of SSE_PUBLISH_TOKENS is required (SSE_PUBLIC_POSITION)"
        return problem_reply(401, detail, {"www-authenticate": 'Bearer realm="trio_sse position"'})
    history = service.history
    place = history.text(history.latest)
    if place is None:
        detail = "the place in SSE_REDIS_STREAM is not known yet"
        return problem_reply(503, detail, {"retry-after": str(RETRY_SECONDS)})
    return json_reply({"position": place})
