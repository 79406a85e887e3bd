"""`GET /position`: the id that stands for now. A page that opens its stream with it misses nothing that is
published after it was rendered."""

from __future__ import annotations

from quart import Blueprint, Response, request

from trio_sse.web.publish import publish_token
from trio_sse.web.replies import json_reply, needs_token, try_again
from trio_sse.web.serving import serving

blueprint = Blueprint("position", __name__)

PATH = "/position"


@blueprint.get(PATH)
async def position() -> Response:
    """The `last_event_id` of a stream that begins now."""
    service = serving()
    if not service.settings.public_position and publish_token(request, service.publishers) is None:
        return needs_token("position", unless="SSE_PUBLIC_POSITION")
    history = service.history
    place = history.text(history.latest)
    if place is None:
        return try_again("the place in SSE_REDIS_STREAM is not known yet")
    return json_reply({"position": place})
