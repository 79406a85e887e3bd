"""Wiring: settings → hub, subscriber, routes, and the life of all of them."""

from __future__ import annotations

import random
import time
from typing import Any

import structlog
import trio
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from trio_sse import routes
from trio_sse.connection import Connection, greeting
from trio_sse.hub import Hub
from trio_sse.metrics import Counters
from trio_sse.settings import Settings
from trio_sse.subscriber import Subscriber
from trio_sse.supervisor import supervise

log = structlog.stdlib.get_logger("trio_sse.service")

RETRY_MILLISECONDS = (2000, 5000)
"""How long a browser waits before it connects again: spread, so that a crowd does not return as one."""


class _HTTPConnection(TrioASGIHTTPConnection):
    """Lets the last `send` of a response finish.

    Hypercorn's Trio worker reports `http.disconnect` from inside that `send`, quart-trio answers by
    cancelling the request, and with it the rest of the `send`, which was to close the connection.
    tests/integration/test_libraries.py tells when this is no longer needed.
    """

    async def _send_response(self, send: Any, response: Any) -> None:
        async def send_to_the_end(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                with trio.move_on_after(5, shield=True):
                    await send(message)
            else:
                await send(message)

        await super()._send_response(send_to_the_end, response)


class Service(QuartTrio):
    """The Quart-Trio application, with what it serves."""

    asgi_http_class = _HTTPConnection

    def __init__(self, settings: Settings) -> None:
        super().__init__("trio_sse", static_folder=None)
        self.settings = settings
        self.counters = Counters()
        self.hub = Hub(
            self.counters,
            epoch=str(time.time_ns() // 1_000_000),
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        self.subscriber = Subscriber(settings, self.hub)
        # Quart would wait 5 s for the supervisor, which runs until it is cancelled.
        self.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None

    def open_connection(self, user_id: str, last_event_id: str | None) -> tuple[Connection, bytes]:
        """A connection in the hub, and the bytes it begins with. The caller owns it: `hub.leave` ends it."""
        connection = Connection(user_id, self.settings.buffer, self.counters)
        position = self.hub.join(connection)
        hello = greeting(
            connection,
            position,
            retry_milliseconds=random.randint(*RETRY_MILLISECONDS),  # noqa: S311  jitter, not a secret
            heartbeat_seconds=self.settings.heartbeat_seconds,
            last_event_id=last_event_id,
        )
        return connection, hello

    def not_ready(self) -> str | None:
        """Why the service should be sent no clients now, or None."""
        return "stopping" if self.hub.closed else self.subscriber.problem


def create_app(settings: Settings) -> Service:
    """The application for `settings`. Its tasks start with the server's lifespan, not here."""
    service = Service(settings)
    service.register_blueprint(routes.blueprint)

    @service.before_serving
    async def start() -> None:
        await service.nursery.start(supervise, service.hub, service.subscriber)

    return service
