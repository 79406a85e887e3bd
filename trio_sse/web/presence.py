"""`GET /presence`: who is here, over all nodes."""

from __future__ import annotations

from typing import Any

import structlog
from quart import Blueprint, Response, request

from trio_sse.broker.presence import Presence
from trio_sse.broker.presence_records import MOST_IDS, Here
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.messages import EVERYBODY, Notification, topic_problem, user_id_problem
from trio_sse.delivery.targets import topic
from trio_sse.web.publish import publish_token
from trio_sse.web.replies import json_reply, needs_token, problem_reply, try_again
from trio_sse.web.serving import serving

log = structlog.stdlib.get_logger("trio_sse.web.presence")

blueprint = Blueprint("presence", __name__)

PATH = "/presence"
MOST_TARGETS = 1000
_PARAMETERS = {"user_id", "topic", "ids"}


@blueprint.get(PATH)
async def presence() -> Response:
    """Whether users are here and with how many streams; how many follow topics, and with `ids=true` who."""
    service = serving()
    token = publish_token(request, service.publishers)
    if token is None:
        return needs_token("presence")
    users = list(dict.fromkeys(request.args.getlist("user_id")))
    topics = list(dict.fromkeys(request.args.getlist("topic")))
    ids = request.args.get("ids", "false")
    if problem := _problem(users, topics, ids):
        return problem_reply(400, problem)
    targets = (*users, *map(topic, topics))
    # Whoever may publish to it may know who is there.
    if (refusal := service.publishers.refusal(token, Notification(targets, None, b""))) is not None:
        return problem_reply(403, refusal)
    assert isinstance(service.presence, Presence)  # else there is no such path
    try:
        found = await service.presence.ask(targets, MOST_IDS if ids == "true" else 0)
    except UnavailableError as error:
        log.warning("no answer about presence", problem=str(error))
        return try_again(str(error))
    return json_reply(
        {
            "users": {name: _told(found[name]) for name in users},
            "topics": {name: _told_of_topic(found[topic(name)], ids=ids == "true") for name in topics},
        }
    )


def _problem(users: list[str], topics: list[str], ids: str) -> str | None:
    if unknown := sorted(set(request.args) - _PARAMETERS):
        return f"unknown parameter {unknown[0][:100]!r}; there are user_id, topic and ids"
    if not users and not topics:
        return "neither user_id nor topic; both may be there several times"
    if len(users) + len(topics) > MOST_TARGETS:
        return f"more than {MOST_TARGETS} users and topics"
    if EVERYBODY in users:
        return 'user_id "*" means everybody; ask for users by their ids'
    if ids not in ("true", "false"):
        return "ids is true or false"
    problems = [*map(user_id_problem, users), *map(topic_problem, topics)]
    return next(filter(None, problems), None)


def _told(here: Here) -> dict[str, Any]:
    return {"online": here.streams >= 0, "streams": max(here.streams, 0)}


def _told_of_topic(here: Here, *, ids: bool) -> dict[str, Any]:
    told = {**_told(here), "users": here.users}
    return {**told, "ids": here.ids, "more": here.more} if ids else told
