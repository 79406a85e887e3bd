"""`GET /position`: the id that stands for now. A page that opens its stream with it misses nothing that is
published after it was rendered."""

from __future__ import annotations

import structlog
from quart import Blueprint, Response, request

from trio_sse.broker.positions import Positions
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.messages import EVERYBODY, topic_problem, user_id_problem
from trio_sse.delivery.partitions import MAX_LENGTH
from trio_sse.delivery.targets import topic
from trio_sse.web.publish import publish_token
from trio_sse.web.replies import json_reply, needs_token, problem_reply, try_again
from trio_sse.web.serving import serving

log = structlog.stdlib.get_logger("trio_sse.web.position")

blueprint = Blueprint("position", __name__)

PATH = "/position"
MOST_TARGETS = 1000
_PARAMETERS = {"user_id", "topic"}


@blueprint.get(PATH)
async def position() -> Response:
    """The `last_event_id` of a stream that begins now; of a log in partitions, for these users
    and topics."""
    service = serving()
    if not service.settings.public_position and publish_token(request, service.publishers) is None:
        return needs_token("position", unless="SSE_PUBLIC_POSITION")
    if service.positions is not None:
        return await _in_partitions(service.positions)
    history = service.history
    place = history.text(history.latest)
    if place is None:
        return try_again("the place in SSE_REDIS_STREAM is not known yet")
    return json_reply({"position": place})


async def _in_partitions(positions: Positions) -> Response:
    users, topics = request.args.getlist("user_id"), request.args.getlist("topic")
    if problem := _problem(users, topics):
        return problem_reply(400, problem)
    targets = (*users, *map(topic, topics))
    partitions = positions.partitions(targets or None)
    try:
        place = await positions.ask(partitions)
    except UnavailableError as error:  # where Redis is stands in the log: anybody may ask
        log.warning("no answer about the position", problem=str(error))
        return try_again("the place in SSE_REDIS_STREAM is not known now")
    if len(place) > MAX_LENGTH:
        detail = f"the id of {len(partitions)} partitions is too long; name user_id and topic of the stream"
        return problem_reply(400, detail)
    return json_reply({"position": place})


def _problem(users: list[str], topics: list[str]) -> str | None:
    if unknown := sorted(set(request.args) - _PARAMETERS):
        return f"unknown parameter {unknown[0][:100]!r}; there are user_id and topic"
    if len(users) + len(topics) > MOST_TARGETS:
        return f"more than {MOST_TARGETS} users and topics"
    if EVERYBODY in users:
        return 'user_id "*" means everybody; without user_id and topic the position is that of all'
    problems = [*map(user_id_problem, users), *map(topic_problem, topics)]
    return next(filter(None, problems), None)
