"""`/doctor`: a page that measures from the browser what stands between it and the service (SSE_DOCTOR).

It reads two streams of a fixed length at `/sse/doctor`, where the rules of a proxy for `/sse` hold too. They
have no messages. The first frame says what arrived here of the request, and what was sent of the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Literal, cast

import msgspec
import trio
from quart import Blueprint, Request, Response, request
from quart.wrappers.response import ResponseBody

from trio_sse.access.addresses import client_address
from trio_sse.access.admission import STREAM_PATH
from trio_sse.access.cors import GUARDS, cors_headers
from trio_sse.access.limits import RETRY_SECONDS
from trio_sse.access.request import joined
from trio_sse.delivery.sse import event
from trio_sse.service import Service
from trio_sse.settings import Settings
from trio_sse.web.bodies import Body
from trio_sse.web.pages import page_reply, root_path
from trio_sse.web.replies import problem_reply
from trio_sse.web.serving import peer, serving

MOST_STREAMS = 8
"""Streams at a time, of one process. They count in the limits of all streams, too."""

MOST_SECONDS = 130.0
TICK_SECONDS = 0.5

COOKIE = "trio_sse_doctor"

Kind = Literal["steady", "quiet"]
"""A steady stream has a frame each TICK_SECONDS. A quiet one has a first and a last one."""

# As of a stream: what a proxy does may depend on them.
_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),
)
_MOST_ORIGIN = 300
_ELSEWHERE = "192.0.2.255"  # nobody's (RFC 5737)
_SOMEBODY = {b"x-forwarded-for": _ELSEWHERE.encode()}

_encode = msgspec.json.encode


class Doctor:
    """The measuring streams of one process."""

    def __init__(self) -> None:
        self.open = 0
        self.blueprint = Blueprint("doctor", __name__)
        self.blueprint.add_url_rule("/doctor", view_func=page)
        self.blueprint.add_url_rule(f"{STREAM_PATH}/doctor", view_func=self.stream)

    async def stream(self) -> Response:
        """A measuring stream. `kind` is steady or quiet; `origin` is one that CORS is asked for."""
        service = serving()
        kind = request.args.get("kind", "steady")
        if kind not in ("steady", "quiet"):
            return problem_reply(400, "kind is steady or quiet")
        fields = joined(request.scope["headers"])
        address = client_address(peer(), fields, service.settings.trusted_proxies)
        limits = service.admission.limits
        if service.hub.draining or self.open >= MOST_STREAMS:
            detail = "stopping" if service.hub.draining else f"{MOST_STREAMS} measurements run here already"
            return problem_reply(503, detail, {"retry-after": str(round(RETRY_SECONDS))})
        if limits.any and (excess := limits.excess(None, address)):
            retry = {"retry-after": str(max(1, round(excess.retry_seconds)))}
            return problem_reply(excess.status, excess.detail, retry)
        response = Response(b"", 200, dict(_HEADERS))
        del response.headers["content-length"]
        if request.method == "HEAD":
            return response
        asked = request.args.get("origin", "")[:_MOST_ORIGIN]
        seconds = run_seconds(service.settings)
        begin = {**_arrived(request, fields, service.settings, address, asked), "seconds": seconds}
        body = MeasuringBody(self, service, address, cast(Kind, kind), seconds, begin)
        cast(Body, request.body).ignore(body.end)
        response.response = body
        response.timeout = None  # it has an end
        return response


class MeasuringBody(ResponseBody):
    """A measuring stream as a response body. It has a place among all streams as long as it is sent."""

    def __init__(
        self,
        doctor: Doctor,
        service: Service,
        address: str,
        kind: Kind,
        seconds: float,
        begin: Mapping[str, Any],
    ) -> None:
        self._doctor = doctor
        self._service = service
        self._address = address
        self._pause = TICK_SECONDS if kind == "steady" else seconds
        self._seconds = seconds
        self._begin = begin
        self._ended = trio.Event()

    def end(self) -> None:
        """End the stream now."""
        self._ended.set()

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._doctor.open += 1
        self._service.admission.limits.begin(self, None, self._address)
        return self._frames()

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._service.admission.limits.end(self)
        self._doctor.open -= 1

    async def _frames(self) -> AsyncIterator[bytes]:
        due = trio.current_time()
        ends = due + self._seconds
        yield _frame("begin", **self._begin)
        while due < ends:
            due = min(due + self._pause, ends)
            if await self._over_before(due):
                return
            yield _frame("tick" if due < ends else "end")

    async def _over_before(self, deadline: float) -> bool:
        """Wait. Returns whether the stream is to end before the deadline."""
        while (now := trio.current_time()) < deadline:
            with trio.move_on_at(min(deadline, now + TICK_SECONDS)):
                await self._ended.wait()
            if self._ended.is_set() or self._service.hub.draining:
                return True
        return False


def run_seconds(settings: Settings) -> float:
    """How long a measurement takes: a connection is to survive two heartbeats' time without one."""
    return min(MOST_SECONDS, max(10.0, 2 * settings.heartbeat_seconds + 5))


async def page() -> Response:
    """The page. Its cookie tells whether cookies come here."""
    settings = serving().settings
    told = {
        "heartbeat": str(settings.heartbeat_seconds),
        "seconds": str(run_seconds(settings)),
    }
    headers = {
        "cache-control": "no-store",
        "set-cookie": f"{COOKIE}=1; Max-Age=600; Path={root_path() or '/'}; HttpOnly; SameSite=Strict",
    }
    return page_reply("doctor.html", told, headers)


def _frame(name: str, **more: object) -> bytes:
    """A frame with the time at which it leaves, in milliseconds since 1970."""
    return event(_encode({"t": round(time.time() * 1000), **more}), name=name)


def _arrived(
    request: Request, fields: Mapping[bytes, bytes], settings: Settings, address: str, asked: str
) -> dict[str, Any]:
    """What arrived of the request, and what is sent of the answer."""
    forwarded = b"forwarded" in fields or b"x-forwarded-for" in fields
    trusted = client_address(peer(), _SOMEBODY, settings.trusted_proxies) == _ELSEWHERE
    allowed = dict(cors_headers(asked, settings)) if asked else {}
    sent = dict((*_HEADERS, *GUARDS, *cors_headers(request.headers.get("origin", ""), settings)))
    return {
        "heartbeat": settings.heartbeat_seconds,
        "http": request.http_version,
        "host": request.headers.get("host", "")[:_MOST_ORIGIN],
        "address": address,
        "peer": peer(),
        "forwarded": "none" if not forwarded else "used" if trusted else "ignored",
        "cookie": COOKIE in request.cookies,
        "last_event_id": request.headers.get("last-event-id", "") == "doctor",
        "cookie_setting": settings.jwt_cookie is not None,
        "cors": {
            "asked": asked,
            "allowed": "access-control-allow-origin" in allowed,
            "credentials": "access-control-allow-credentials" in allowed,
        },
        "sent": sent,
    }
