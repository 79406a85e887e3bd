"""What several test files share: an independent SSE parser, doubles at public seams, ASGI driven by hand."""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import structlog
import trio
from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.trio import serve
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypothesis import strategies as st
from quart.testing.client import QuartClient

from trio_sse.access.admission import Accepted
from trio_sse.counters import Counters
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Common, Connection
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.resume import Resumer, Start
from trio_sse.delivery.targets import followed, topic
from trio_sse.logs.libraries import OURS
from trio_sse.server.containment import report
from trio_sse.server.fleet import Fleet
from trio_sse.server.http1 import Head, read_head
from trio_sse.server.poller import Poller
from trio_sse.server.requests import admit
from trio_sse.service import Service
from trio_sse.settings import Settings
from trio_sse.web.app import App

PATIENCE_SECONDS = 10

PROCESS = "9f3c12ab77de"
"""The process that every history of the tests belongs to."""

TEXT = st.text(st.characters(codec="utf-8"))


def events(stream: bytes) -> list[ServerSentEvent]:
    """`stream` as a browser sees it: lines end with CRLF, CR or LF and nothing else (WHATWG HTML 9.2)."""
    decoder = SSEDecoder()
    lines = re.split("\r\n|\r|\n", stream.decode())
    return [event for line in lines[:-1] if (event := decoder.decode(line)) is not None]


def numbers(stream: bytes) -> list[int]:
    """The field `n` of each message."""
    return [event.json()["n"] for event in events(stream) if event.event == "message"]


def settings(**values: Any) -> Settings:
    """Settings that do not depend on the environment of whoever runs the tests."""
    with mock.patch.dict(os.environ, clear=True):
        return Settings(**values)


def client_of(service: Service) -> QuartClient:
    """A client of all that Quart answers, without a socket."""
    client = App(service).test_client()
    assert isinstance(client, QuartClient)
    return client


def new_history(**bounds: Any) -> History:
    """A history that lets go of nothing, but for the bounds given."""
    unbounded = {"messages": 1_000_000, "seconds": 1e9, "max_bytes": 1 << 40, "clock": lambda: 0.0}
    return History(bounds.pop("process", PROCESS), **{**unbounded, **bounds})


def new_resumer(history: History | None = None, *, heartbeat_seconds: float = 30.0) -> Resumer:
    history = new_history() if history is None else history  # an empty one is false
    return Resumer(history, heartbeat_seconds=heartbeat_seconds)


def new_hub(
    *, clock: Callable[[], float] = lambda: 0.0, heartbeat_seconds: float = 30.0, **bounds: Any
) -> Hub:
    """A hub with a history of its own, which has these bounds."""
    history = new_history(clock=clock, **bounds)
    return Hub(Counters(), history, heartbeat_seconds=heartbeat_seconds, clock=clock)


def unbegun(
    hub: Hub,
    user_id: str | None = "1",
    *,
    topics: Iterable[str] = (),
    capacity: int = 10,
    disconnect: bool = False,
    recovery: Resumer | None = None,
) -> Connection:
    """A connection in the hub that does not know yet where to begin."""
    recovery = recovery or new_resumer(hub.history)
    common = Common(hub.counters, hub.history, recovery, capacity, disconnect=disconnect)
    connection = Connection(followed(user_id, topics), common)
    hub.join(connection)
    return connection


def joined(
    hub: Hub,
    user_id: str | None = "1",
    *,
    topics: Iterable[str] = (),
    capacity: int = 10,
    disconnect: bool = False,
    after: int | None = None,
) -> Connection:
    """A connection in the hub that begins after the message with this number, or now, and says no greeting.

    It is live as soon as a `Client` that is not busy has it.
    """
    connection = unbegun(hub, user_id, topics=topics, capacity=capacity, disconnect=disconnect)
    connection.begin(b"", hub.history.latest if after is None else after)
    return connection


def live(capacity: int = 10, *, counters: Counters | None = None, disconnect: bool = False) -> Connection:
    """A connection without a hub that has nothing to catch up with."""
    history = new_history()
    common = Common(counters or Counters(), history, new_resumer(history), capacity, disconnect=disconnect)
    connection = Connection("1", common)
    connection.begin(b"", 0)
    connection.take_waiting()
    return connection


def opened(service: Service, user_id: str = "1", last_event_id: str | None = None) -> Connection:
    """A stream of the service that somebody was let in to. It stays open."""
    return service.open(Accepted(user_id, Start(last_event_id), ()))


@contextmanager
def open_stream(service: Service, accepted: Accepted) -> Iterator[Connection]:
    """A stream that is open as long as the block lasts."""
    connection = service.open(accepted)
    try:
        yield connection
    finally:
        service.release(connection)


@asynccontextmanager
async def fleet_of(service: Service) -> AsyncIterator[Fleet]:
    """A fleet that runs as long as the block lasts."""
    fleet = Fleet(service, Poller(partial(report, service.counters, "a connection")))
    async with trio.open_nursery() as nursery:
        await nursery.start(fleet.run)
        yield fleet
        nursery.cancel_scope.cancel()


async def request_stream(
    fleet: Fleet,
    service: Service,
    near: trio.SocketStream,
    path: str = "/sse?user_id=ann",
    *,
    version: str = "1.1",
) -> bool:
    """Ask for a stream on `near`, which the fleet then has. Returns whether it was admitted."""
    request = await read_head(near, get(path, version=version), Config())
    assert isinstance(request, Head)
    opening = await admit(service, request, Config(), near)
    if opening is not None:
        fleet.open(near.socket.detach(), opening)
    return opening is not None


def note(
    *users: str,
    topics: Iterable[str] = (),
    data: bytes = b"{}",
    event: str | None = None,
    key: str | None = None,
) -> Notification:
    """A notification for `users` and `topics`, or for everybody if none is named."""
    return Notification((*users, *map(topic, topics)) or None, event, data, key)


def batch(*sequences: int) -> Batch:
    return Batch([b"data: %d\n\n" % number for number in sequences], list(sequences))


def flush_now(hub: Hub) -> None:
    """A flush that nothing can come between."""
    for gathered, connections in hub.take():
        for connection in connections:
            connection.offer(gathered)
    hub.flushed()


class Client:
    """The far end of a connection, in memory: an outlet that is busy when told so."""

    def __init__(self, connection: Connection, *, busy: bool = False) -> None:
        self.received = b""
        self.busy = busy
        self.closed = False
        self._connection = connection
        connection.attach(self)

    def take(self, batch: Batch) -> bool:
        if not self.busy:
            self.received += batch.data
        return not self.busy

    def pull(self) -> None:
        if not self.busy:
            self.catch_up()

    def close(self) -> None:
        self.closed = True

    def take_page(self) -> bytes:
        """What the connection gives at once. The client stays as busy as it is."""
        page = self._connection.take_waiting()
        self.received += page
        return page

    def catch_up(self) -> None:
        """Take all that waits, and be busy no longer."""
        self.busy = True  # so that nothing new comes in between
        while self.take_page():
            pass
        self.busy = False

    @property
    def data(self) -> list[str]:
        return [event.data for event in events(self.received)]

    @property
    def names(self) -> list[str]:
        return [event.event for event in events(self.received)]

    @property
    def notices(self) -> list[str]:
        """The names of all but messages."""
        return [name for name in self.names if name != "message"]

    @property
    def numbers(self) -> list[int]:
        return numbers(self.received)


def asgi(application: Any) -> Callable[..., Awaitable[None]]:
    """An application as a server sees it, without the narrower types that Quart declares. Of a service it is
    the one that serves it."""
    plain: Callable[..., Awaitable[None]] = (
        App(application) if isinstance(application, Service) else application
    )
    return plain


class AsgiRequest:
    """One HTTP request driven by hand: what the application sent, and the client's leaving."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self._changed = trio.Condition()
        self._sent = False
        self._left = trio.Event()

    def leave(self) -> None:
        self._left.set()

    async def until(self, condition: Callable[[AsgiRequest], bool]) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with self._changed:
                while not condition(self):
                    await self._changed.wait()

    async def receive(self) -> dict[str, Any]:
        if self._sent:
            await self._left.wait()
            return {"type": "http.disconnect"}
        self._sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Any) -> None:
        async with self._changed:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.body += message.get("body", b"")
                self.ended = not message.get("more_body", False)
            self._changed.notify_all()


def http_scope(
    path: str, query: bytes = b"", method: str = "GET", headers: Iterable[tuple[bytes, bytes]] = ()
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"spec_version": "2.3", "version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


@asynccontextmanager
async def requested(
    app: Any, path: str = "/sse", query: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = ()
) -> AsyncIterator[AsgiRequest]:
    """GET `path` from `app`; the client leaves at the end of the block."""
    request = AsgiRequest()
    async with trio.open_nursery() as nursery:
        call, scope = asgi(app), http_scope(path, query, headers=headers)
        nursery.start_soon(call, scope, request.receive, request.send)
        yield request
        request.leave()


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, where nothing could tell: another process is part of it."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.002)


class Turns:
    """How often another task has run."""

    count = 0


@asynccontextmanager
async def turns_of_others() -> AsyncIterator[Turns]:
    """Another task runs as often as it may, as long as the block lasts."""
    turns = Turns()

    async def others() -> None:
        while True:
            turns.count += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        yield turns
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stream_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """The service's end of a connection and the client's."""
    near, far = trio.socket.socketpair()
    with near, far:
        yield trio.SocketStream(near), trio.SocketStream(far)


@contextmanager
def process_kept() -> Iterator[None]:
    """Take back what an application changes of the process it runs in: collector, open files, logging."""
    thresholds = gc.get_threshold()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        logger = logging.getLogger("trio_sse")
        for handler in logger.handlers:
            if handler.name == OURS:
                handler.close()
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
        structlog.reset_defaults()


@asynccontextmanager
async def served(
    application: Any, root_path: str = "", files: tuple[Path, Path] | None = None
) -> AsyncIterator[int]:
    """`application` under Hypercorn's Trio worker, and its port. Leaving asks the worker to stop.

    `files`: certificate and key, for TLS."""
    stop = trio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.root_path = root_path
    if files is not None:
        config.certfile, config.keyfile = map(str, files)
    config.graceful_timeout = 3600  # the service ends what is open by itself
    with process_kept(), trio.fail_after(3 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def worker() -> None:
                await serve(application, config, shutdown_trigger=stop.wait)

            try:
                yield port
            finally:
                stop.set()


async def exchange(port: int, request: bytes, until: bytes | None = None) -> bytes:
    """Send `request`; what comes back, up to `until` or the end of the connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return await read(stream, until)


async def read(
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], until: bytes | None = None
) -> bytes:
    received = b""
    with trio.fail_after(PATIENCE_SECONDS):
        while until is None or until not in received:
            data = await stream.receive_some()
            if not data:
                break
            received += data
    return received


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: localhost", *headers, "", ""]).encode()


def http2_protocol(kind: type[H2Protocol], buffer: type[StreamBuffer]) -> H2Protocol:
    """A connection in Hypercorn with one stream, number 1, that of an answer which nobody has taken."""

    async def send(_: object) -> None:
        pass

    nobody: Any = None
    context: Any = WorkerContext(None)
    protocol = kind(nobody, Config(), context, nobody, nobody, False, None, None, send)
    protocol.stream_buffers[1] = buffer(EventWrapper)
    protocol.priority.insert_stream(1)
    return protocol
