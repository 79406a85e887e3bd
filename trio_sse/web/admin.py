"""For SSE_ADMIN_TOKEN: `/admin`, its events, `GET /explain`, `POST /disconnect` and `POST /revoke`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import cast

import msgspec
import structlog
import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody

from trio_sse.access.operator_tokens import may_administer
from trio_sse.admin.administration import VIEW_SECONDS, Administration, Outcome, TooManyError
from trio_sse.admin.reports import Ending
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.event_ids import parse
from trio_sse.delivery.messages import EVERYBODY, user_id_problem
from trio_sse.delivery.notices import service_event
from trio_sse.delivery.partitions import parse_place
from trio_sse.service import Service
from trio_sse.web.pages import page_reply
from trio_sse.web.replies import json_reply, needs_token, problem_reply, try_again
from trio_sse.web.serving import serving

log = structlog.stdlib.get_logger("trio_sse.web.admin")

blueprint = Blueprint("admin", __name__)

MOST_VIEWERS = 20
MOST_JTI = 1000
"""Characters that a `jti` may have."""


class _Disconnect(msgspec.Struct, forbid_unknown_fields=True):
    stream: str | None = None
    user_id: str | int | None = None
    jti: str | None = None
    issued_before: float | None = None


class _Revoke(msgspec.Struct, forbid_unknown_fields=True):
    jti: str | None = None
    user_id: str | int | None = None
    issued_before: float | None = None
    seconds: float | None = None


@blueprint.get("/admin")
async def page() -> Response:
    """The live view. It has nothing in it: what it shows it asks for with the token."""
    return page_reply("admin.html")


@blueprint.get("/admin/events")
async def events() -> Response:
    """What all processes do, as an event stream."""
    service = serving()
    if not _may(service):
        return _needs_token()
    if _administration(service).viewers >= MOST_VIEWERS:
        return problem_reply(503, f"{MOST_VIEWERS} live views are open here", {"retry-after": "10"})
    headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
    response = Response(b"", 200, headers, content_type="text/event-stream")
    del response.headers["content-length"]
    response.response = _Feed(service)
    response.timeout = None
    return response


@blueprint.get("/explain")
async def explain() -> Response:
    """Why a user got a message, or did not."""
    service = serving()
    if not _may(service):
        return _needs_token()
    if unknown := sorted(set(request.args) - {"user_id", "id"}):
        return problem_reply(400, f"unknown parameter {unknown[0][:100]!r}; there are user_id and id")
    user, id = request.args.get("user_id") or None, request.args.get("id") or None  # noqa: A001
    if user is None and id is None:
        return problem_reply(400, "neither user_id nor id")
    if user is not None and (problem := _user_problem(user)):
        return problem_reply(400, problem)
    if id is not None and parse(id) is None and parse_place(id) is None:
        return problem_reply(400, "id is no event id of this service, such as 1795462559402-0")
    return json_reply(await _administration(service).explain(user, id))


@blueprint.post("/disconnect")
async def disconnect() -> Response:
    """End a stream, those of a user, or those of tokens. The clients may come back."""
    service = serving()
    if not _may(service):
        return _needs_token()
    try:
        asked = msgspec.json.decode(await _body(), type=_Disconnect)
    except msgspec.MsgspecError as error:
        return problem_reply(400, f"the body: {error}")
    given = {name for name, value in msgspec.structs.asdict(asked).items() if value is not None}
    if len(given) != 1 and given != {"user_id", "issued_before"}:
        return problem_reply(400, "the body has one of stream, user_id, jti and issued_before")
    if (user := _user(asked.user_id)) is not None and (problem := _user_problem(user)):
        return problem_reply(400, problem)
    ending = Ending(asked.stream, _user(asked.user_id), asked.jti, asked.issued_before)
    return json_reply(_told(await _administration(service).disconnect(ending)))


@blueprint.post("/revoke")
async def revoke() -> Response:
    """Let tokens count no more, and end their streams: one by its `jti`, those of a user or all that were
    issued before a time. For a user that is now, if no time is given."""
    service = serving()
    if not _may(service):
        return _needs_token()
    settings = service.settings
    if settings.auth != "jwt":
        return problem_reply(400, "streams need no token here, so none can be revoked (SSE_AUTH)")
    try:
        asked = msgspec.json.decode(await _body(), type=_Revoke)
    except msgspec.MsgspecError as error:
        return problem_reply(400, f"the body: {error}")
    seconds = float(settings.revocation_seconds) if asked.seconds is None else asked.seconds
    if problem := _problem(asked, seconds, settings.revocation_seconds):
        return problem_reply(400, problem)
    before = asked.issued_before
    if asked.jti is None and before is None:
        before = time.time()
    try:
        outcome = await _administration(service).revoke(
            Ending(None, _user(asked.user_id), asked.jti, before), seconds
        )
    except UnavailableError as error:
        log.warning("not revoked", problem=str(error))
        return try_again(str(error))
    except TooManyError:
        return problem_reply(507, "as many tokens are revoked as can be: revoke by user_id or issued_before")
    return json_reply({**_told(outcome), "until": outcome.until})


def _user_problem(user: str) -> str | None:
    if user == EVERYBODY:
        return 'user_id "*" means everybody, and is no user'
    return user_id_problem(user)


def _problem(asked: _Revoke, seconds: float, most: float) -> str | None:
    if asked.jti is not None:
        if asked.user_id is not None or asked.issued_before is not None:
            return "jti stands alone: it names one token"
        if not 0 < len(asked.jti) <= MOST_JTI:
            return f"jti has 1 to {MOST_JTI} characters"
    elif asked.user_id is None and asked.issued_before is None:
        return "the body has one of jti, user_id and issued_before"
    if (user := _user(asked.user_id)) is not None and (problem := _user_problem(user)):
        return problem
    if asked.issued_before is not None and not 0 < asked.issued_before <= time.time() + 60:
        return "issued_before is in seconds since 1970, and not in the future"
    if not 0 < seconds <= most:
        return f"seconds is above 0 and up to {most} (SSE_REVOCATION_SECONDS)"
    return None


def _user(given: str | int | None) -> str | None:
    return None if given is None else str(given)


def _told(outcome: Outcome) -> dict[str, object]:
    return {"ended": outcome.ended, **msgspec.structs.asdict(outcome.asked)}


async def _body() -> bytes:
    return cast(bytes, await request.get_data(cache=False))


def _may(service: Service) -> bool:
    return may_administer(request.headers.get("authorization", ""), service.settings)


def _needs_token() -> Response:
    return needs_token("admin", "SSE_ADMIN_TOKEN")


def _administration(service: Service) -> Administration:
    assert service.administration is not None  # else there are no such paths
    return service.administration


class _Feed(ResponseBody):
    """The events of one live view, until the client leaves or the service stops."""

    def __init__(self, service: Service) -> None:
        self._administration = _administration(service)
        self._hub = service.hub
        self._first = True

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._administration.viewers += 1
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._administration.viewers -= 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._first:
            await trio.sleep(VIEW_SECONDS)
        self._first = False
        if self._hub.draining:
            raise StopAsyncIteration
        return service_event("view", await self._administration.view())
