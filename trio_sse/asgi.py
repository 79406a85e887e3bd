"""`app`, the ASGI callable that servers load. It makes the service when the server starts it, on Trio or on
an asyncio loop that runs on Trio."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import sniffio
import structlog
import trio
from trio_asyncio import aio_as_trio

from trio_sse.access.problem import problem
from trio_sse.logs import configure
from trio_sse.logs.libraries import adopted
from trio_sse.logs.pipe import Pipe
from trio_sse.server.certificates import Certificates, hangup_is_unattended
from trio_sse.server.containment import Contained, innermost
from trio_sse.server.front import Front
from trio_sse.server.http1 import bounded_heads
from trio_sse.server.http2 import installing
from trio_sse.server.metrics_port import metrics_listener, serve_metrics
from trio_sse.service import Service
from trio_sse.settings import Settings, SettingsError, load
from trio_sse.stopping import unattended
from trio_sse.web.app import App
from trio_sse.web.pages import ROOT_PATH

log = structlog.stdlib.get_logger("trio_sse.asgi")

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

WRONG_LOOP = "trio_sse runs on Trio: start it with `trio-sse`, or `hypercorn -k trio trio_sse:app`."


class Application:
    """The ASGI application. If no `settings` are given, they are read from the environment at start-up.
    `signals` ask for the stop and are not handled by the server. `by_settings`: whether the server, too, was
    started by these settings."""

    def __init__(
        self,
        settings: Settings | None = None,
        signals: Iterable[signal.Signals] = (),
        *,
        by_settings: bool = False,
    ) -> None:
        self.crashed = False
        """Whether a task of the service failed. The process is then asked to end."""
        self._settings = settings
        self._by_settings = by_settings or settings is not None
        self._signals = list(signals)
        self._app: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop: Any = None
        if sniffio.current_async_library() != "trio":
            # Importing trio_asyncio made the loop of Hypercorn's asyncio worker one that runs on Trio.
            loop = asyncio.get_running_loop()
            if not hasattr(loop, "trio_as_future"):
                await _refuse(scope, receive, send, WRONG_LOOP)
                return
        if scope["type"] == "lifespan":
            await self._lifespan(loop, scope, receive, send)
        elif self._app is None:
            await _refuse(scope, receive, send, "the server did not run the start-up of the application")
        elif loop is None:
            await self._respond(self._app, scope, receive, send)
        else:
            await _on_trio(loop, partial(self._respond, self._app), scope, receive, send)

    async def stop_requested(self) -> None:
        """Wait for one of `signals`. The lifespan start-up must be over."""
        assert self._app is not None
        await self._app.service.stopping.requested.wait()

    async def _lifespan(self, loop: Any, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            settings = self._settings or load()
            metrics = _metrics_listener(settings)
            self._app = app = App(Service(settings))
        except SettingsError as error:
            await _refuse(scope, receive, send, "\n".join(["wrong settings:", *error.lines]))
            return
        lines = configure(settings)
        for notice in settings.notices:
            log.warning(notice)
        app.service.admission.warn_if_open()
        if not self._by_settings and settings.tls_cert is not None:
            log.warning(
                "SSE_TLS_CERT is for `trio-sse`: this server has options of its own (--certfile, --keyfile)"
            )
        _calm_garbage_collector()
        _allow_many_files()
        if loop is None:
            failure = await self._live(app, metrics, lines, scope, receive, send)
        else:
            failure = await _on_trio(loop, partial(self._live, app, metrics, lines), scope, receive, send)
        if failure is not None:
            await send(failure)
        elif self.crashed:
            # No server reacts to a lifespan that ends by itself. This ends the process under any server.
            app.service.stopping.requested.set()
            if not self._signals:
                signal.raise_signal(signal.SIGTERM)

    async def _live(
        self,
        app: App,
        metrics: socket.socket | None,
        lines: logging.Handler,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Message | None:
        """Run the service until the server stops it. Returns the message that reports a failure, or None. The
        caller must send it from the server's own loop: Hypercorn's asyncio worker checks for it at once."""
        failure: Message | None = None

        async def send_unless_failed(message: Message) -> None:
            nonlocal failure
            if message["type"].endswith(".failed"):
                failure = message
                raise _FailedError
            await send(message)

        service = app.service
        certificates = Certificates()

        try:
            async with trio.open_nursery() as nursery:
                front = Front(service, nursery)

                async def receive_after_connections() -> Message:
                    message: Message = await receive()
                    if message["type"] == "lifespan.shutdown":
                        await front.finish()
                    return message

                if signals := self._signals or unattended():
                    await nursery.start(service.stopping.listen, signals)
                if hangup_is_unattended():
                    await nursery.start(certificates.listen)
                nursery.start_soon(certificates.watch)
                if isinstance(lines, Pipe):
                    nursery.start_soon(lines.keep_up)
                await nursery.start(front.run)
                if metrics is not None:
                    nursery.start_soon(serve_metrics, service, metrics)
                with (
                    adopted(lines, log.getEffectiveLevel()),
                    installing.installed(),
                    bounded_heads(),
                    certificates.installed(),
                    front.installed(),
                ):
                    await app(scope, receive_after_connections, send_unless_failed)  # type: ignore[arg-type]
                nursery.cancel_scope.cancel()
        except Exception as error:
            if failure is None:
                self.crashed = True
                log.critical("the service failed and ends", exc_info=innermost(error))
        return failure

    async def _respond(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        if not _has_target(scope):
            await _answer(scope, send, 400, "the target of the request is invalid (RFC 9112, 3.2)")
            return
        scope = _without_prefix(_without_token(scope), app.service.settings.root_path)
        # Returning is enough: the server answers 500, or closes the connection if the answer has begun.
        with Contained(app.service.counters, "a request"):
            await app(scope, receive, send)  # type: ignore[arg-type]


def _metrics_listener(settings: Settings) -> socket.socket | None:
    """Raises SettingsError."""
    try:
        return metrics_listener(settings)
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(
            [f"cannot listen on port {settings.metrics_port}: {reason} (SSE_METRICS_PORT)"]
        ) from None


worker = Application(by_settings=True)
"""The application that the workers of `trio-sse` serve."""


def _has_target(scope: Scope) -> bool:
    """Whether the target of a request has one of its forms (RFC 9112, 3.2). Quart fails with others."""
    path = scope["path"]
    if path.startswith("/"):
        return True
    if path == "*":
        return bool(scope.get("method") == "OPTIONS")
    try:
        parts = urlsplit(path)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)


def _without_token(scope: Scope) -> Scope:
    """The scope for the service. The token is removed from the server's own scope, and so from its access
    log."""
    query = scope.get("query_string", b"")
    redacted = b"&".join(_TOKEN + b"=***" if _is_token(part) else part for part in query.split(b"&"))
    if redacted == query:
        return scope
    own = scope.copy()
    scope["query_string"] = redacted
    return own


def _without_prefix(scope: Scope, root_path: str) -> Scope:
    """The scope without the path prefix of the service, if the request has it.

    The prefix is SSE_ROOT_PATH, or the server's own `root_path`. By ASGI that is a part of `path`; with
    Hypercorn only if the client's request has it.
    """
    prefixes = [prefix for prefix in (root_path, scope.get("root_path", "")) if prefix]
    if not prefixes:
        return scope
    own = {**scope, "root_path": "", ROOT_PATH: prefixes[0]}
    for prefix in prefixes:
        if f"{scope['path']}/".startswith(f"{prefix}/"):
            own["path"] = scope["path"].removeprefix(prefix) or "/"
            own["raw_path"] = (scope.get("raw_path") or b"").removeprefix(prefix.encode()) or b"/"
            break
    return own


_TOKEN = b"access_token"


def _is_token(part: bytes) -> bool:
    return unquote_to_bytes(part.partition(b"=")[0]) == _TOKEN


class _FailedError(Exception):
    """Ends a lifespan that has reported a failure."""


async def _on_trio(
    loop: Any, function: Callable[..., Any], scope: Scope, receive: Receive, send: Send
) -> Any:
    """Run a Trio function from asyncio. If the worker cancels its future while stopping, that is no error."""
    try:
        return await loop.trio_as_future(
            function, scope, aio_as_trio(receive, loop=loop), aio_as_trio(send, loop=loop)
        )
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None


def _calm_garbage_collector() -> None:
    """Keep the garbage collector from scanning every open connection again and again.

    A connection is a few dozen objects that live until the client leaves. So each scan of young objects finds
    nothing to free, and each full scan takes longer the more clients there are. Objects that exist by now are
    never scanned again. Measured with `benchmarks/run.py --works idle`: see benchmarks/README.md.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each stream takes one file, and 1024 are too
    few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": reason})
    else:
        await _answer(scope, send, 503, reason)


async def _answer(scope: Scope, send: Send, status: int, detail: str) -> None:
    if scope["type"] == "http":
        body = problem(status, detail)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close"})
