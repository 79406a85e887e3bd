"""The Quart-Trio application: pages, health, publishing, and streams without a socket of their own."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import trio
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from trio_sse.service import Service
from trio_sse.settings import Settings
from trio_sse.sockets import KeepAlive
from trio_sse.web import admin, health, metrics, openapi, position, presence, publish, routes
from trio_sse.web.bodies import MAX_BODY, Body, Request
from trio_sse.web.doctor import Doctor
from trio_sse.web.stream_body import StreamBody

BODY_SECONDS = 10
LAST_SEND_SECONDS = 2


class _HTTPConnection(TrioASGIHTTPConnection):
    """Sends a response, with the bounds that Hypercorn lacks.

    The last `send` is shielded from cancellation. Hypercorn's Trio worker reports `http.disconnect` from
    inside it; quart-trio then cancels the request, and with it the rest of the `send`, which closes the
    connection. tests/integration/test_libraries.py fails when this is no longer needed.

    With HTTP/2 a client that opens no window blocks a `send` while TCP works. Its response is then ended
    normally: a client that reads again finds what was sent and the end, and reconnects. The client may also
    be out of reach, so it gets as much time as TCP gives such a peer. A client that reads slowly gets the
    write time-out for all that is left when its stream ends.
    """

    def _create_request_from_scope(self, send: Any) -> Any:
        """Set the bound of the body before any of it arrives. It is larger for a request that may publish."""
        request = super()._create_request_from_scope(send)
        service: Service = self.app.service  # type: ignore[attr-defined]
        publishes = (request.method, request.path) == ("POST", publish.PATH)
        if publishes and publish.publish_token(request, service.publishers) is not None:
            request.body = Body(request.content_length, publish.max_body(service.settings))
        return request

    async def _send_response(self, send: Any, response: Any) -> None:
        settings: Settings = self.app.service.settings  # type: ignore[attr-defined]
        body = getattr(response, "response", None)
        stream = body if isinstance(body, StreamBody) else None
        patience = at_the_end = math.inf
        if self.scope["http_version"] == "2":
            at_the_end = settings.write_timeout_seconds
            patience = KeepAlive(at_the_end).give_up

        async def send_in_time(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                with trio.move_on_after(LAST_SEND_SECONDS, shield=True):
                    await send(message)
                return
            ended = math.inf if stream is None else stream.ended
            with trio.move_on_at(min(trio.current_time() + patience, ended + at_the_end)) as sending:
                await send(message)
            if sending.cancelled_caught:
                raise _NoRoomError

        try:
            with contextlib.nullcontext() if stream is None else stream.joined():
                await super()._send_response(send_in_time, response)
        except _NoRoomError:
            await send_in_time({"type": "http.response.body", "body": b"", "more_body": False})


class _NoRoomError(Exception):
    """The client does not read."""


class App(QuartTrio):
    """The web application of `service`. It runs the service's tasks from the lifespan start-up to the end."""

    asgi_http_class = _HTTPConnection
    request_class = Request

    def __init__(self, service: Service) -> None:
        super().__init__("trio_sse", static_folder=None)
        self.service = service
        # Quart would wait 5 s for the service, which runs until it is cancelled.
        self.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None
        self.config["BODY_TIMEOUT"] = BODY_SECONDS
        self.config["MAX_CONTENT_LENGTH"] = MAX_BODY
        self.register_blueprint(routes.blueprint)
        self.register_blueprint(health.blueprint)
        if service.settings.metrics_token is not None:
            self.register_blueprint(metrics.blueprint)
        self.register_blueprint(openapi.blueprint)
        if service.settings.publish_token_list:
            self.register_blueprint(publish.blueprint)
            if service.settings.presence:
                self.register_blueprint(presence.blueprint)
        if service.administration is not None:
            self.register_blueprint(admin.blueprint)
        if service.settings.publish_token_list or service.settings.public_position:
            self.register_blueprint(position.blueprint)
        if service.settings.doctor:
            self.register_blueprint(Doctor().blueprint)
        self.before_serving(self._start)

    async def _start(self) -> None:
        await self.nursery.start(self.service.run)
