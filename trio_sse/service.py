"""Wiring: settings → hub, subscriber, routes, and the life of all of them."""

from __future__ import annotations

import math
import secrets
from typing import Any

import structlog
import trio
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from trio_sse.access.gate import Gate
from trio_sse.broker.publisher import Publisher
from trio_sse.broker.subscriber import Subscriber
from trio_sse.counters import Counters
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.lifetimes import Lifetimes
from trio_sse.delivery.resume import Replays
from trio_sse.server.sockets import KeepAlive
from trio_sse.settings import Settings
from trio_sse.stopping import Stopping
from trio_sse.supervisor import supervise
from trio_sse.web import publish, routes
from trio_sse.web.bodies import MAX_BODY, Body, Request

log = structlog.stdlib.get_logger("trio_sse.service")

BODY_SECONDS = 10
LAST_SEND_SECONDS = 2

REPLAY_TURNS = 16
"""Pages of replays written before everybody else gets a turn."""


class _HTTPConnection(TrioASGIHTTPConnection):
    """Sends a response, and bounds what Hypercorn leaves unbounded.

    The last `send` may finish: Hypercorn's Trio worker reports `http.disconnect` from inside of it,
    quart-trio answers by cancelling the request, and with it the rest of the `send`, which was to close the
    connection. tests/integration/test_libraries.py tells when this is no longer needed.

    With HTTP/2 a client that opens no window holds up a `send` though all is well with TCP. Its response is
    then ended as a whole one: should it read again, it finds what was sent, and the end, and comes back. It
    may be out of reach instead, so it gets the time that those have. One that reads a little now and then has
    as long for all that is left when its stream ends.
    """

    def _create_request_from_scope(self, send: Any) -> Any:
        """With the bound on its body, before any of it has come: whoever may publish has more room."""
        request = super()._create_request_from_scope(send)
        settings: Settings = self.app.settings  # type: ignore[attr-defined]
        publishes = (request.method, request.path) == ("POST", publish.PATH)
        if publishes and publish.publish_token(request, settings) is not None:
            request.body = Body(request.content_length, publish.max_body(settings))
        return request

    async def _send_response(self, send: Any, response: Any) -> None:
        settings: Settings = self.app.settings  # type: ignore[attr-defined]
        patience = at_the_end = math.inf
        if self.scope["http_version"] == "2":
            at_the_end = settings.write_timeout_seconds
            patience = KeepAlive(at_the_end).give_up

        async def send_in_time(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                with trio.move_on_after(LAST_SEND_SECONDS, shield=True):
                    await send(message)
                return
            ended = response.response.ended if isinstance(response.response, routes.StreamBody) else math.inf
            with trio.move_on_at(min(trio.current_time() + patience, ended + at_the_end)) as sending:
                await send(message)
            if sending.cancelled_caught:
                raise _NoRoomError

        try:
            await super()._send_response(send_in_time, response)
        except _NoRoomError:
            await send_in_time({"type": "http.response.body", "body": b"", "more_body": False})


class _NoRoomError(Exception):
    """The client takes nothing."""


class Service(QuartTrio):
    """The Quart-Trio application, with what it serves. Raises SettingsError where a key file is no key."""

    asgi_http_class = _HTTPConnection
    request_class = Request

    def __init__(self, settings: Settings) -> None:
        super().__init__("trio_sse", static_folder=None)
        self.settings = settings
        self.counters = Counters()
        self.gate = Gate(settings)
        self.history = History(
            secrets.token_hex(6),
            messages=settings.history_messages,
            seconds=settings.history_seconds,
            max_bytes=settings.history_bytes,
            clock=trio.current_time,
            streaming=settings.redis_stream is not None,
        )
        self.hub = Hub(self.counters, self.history, heartbeat_seconds=settings.heartbeat_seconds)
        self.replays = Replays(self.history, heartbeat_seconds=settings.heartbeat_seconds)
        self.lifetimes = Lifetimes()
        self.stopping = Stopping(self.hub, settings.drain_seconds)
        self.replay_turns = trio.CapacityLimiter(REPLAY_TURNS)
        self.subscriber = Subscriber(settings, self.hub, self.replays)
        self.publisher = Publisher(settings, self.hub, self.subscriber)
        # Quart would wait 5 s for the supervisor, which runs until it is cancelled.
        self.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
        self.config["BODY_TIMEOUT"] = BODY_SECONDS
        self.config["MAX_CONTENT_LENGTH"] = MAX_BODY

    def not_ready(self) -> str | None:
        """Why the service should be sent no clients now, or None. For the log: it says where Redis is."""
        return "stopping" if self.hub.draining else self.subscriber.problem

    @property
    def not_ready_code(self) -> str:
        """The kind of `not_ready()`, for strangers."""
        return "stopping" if self.hub.draining else self.subscriber.problem_code


def create_app(settings: Settings) -> Service:
    """The application for `settings`. Its tasks start with the server's lifespan, not here."""
    service = Service(settings)
    service.register_blueprint(routes.blueprint)
    if settings.publish_token_list:
        service.register_blueprint(publish.blueprint)

    @service.before_serving
    async def start() -> None:
        await service.nursery.start(
            supervise, service.hub, service.lifetimes, service.subscriber, service.gate.run
        )

    return service
