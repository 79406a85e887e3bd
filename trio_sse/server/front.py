"""The front: every connection enters here, in place of Hypercorn's TCP servers.

`GET /sse` on a plain HTTP/1 connection is served on its own socket. Hypercorn serves anything else, with the
bytes already read. An error of one connection ends only that connection, and the service learns when the stop
begins.

This relies on what Hypercorn does not promise. `hypercorn.trio.run` and `hypercorn.asyncio.run`
look up the names `TCPServer` and `raise_shutdown` after the lifespan start-up, await what the first returns
for every connection, and stop when the second raises. From then on they accept with `trio.serve_listeners`
and `asyncio.start_server`, which tells the server's own listening sockets from others of the process.
tests/integration/test_libraries.py fails when that no longer holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

import hypercorn.asyncio.run
import hypercorn.trio.run
import structlog
import trio
import trio_asyncio
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioTCPServer
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer as TrioTCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import ShutdownError

from trio_sse.patches import standing_in, with_own
from trio_sse.server.accepting import Want, accept_forever
from trio_sse.server.arrivals import Arrivals
from trio_sse.server.containment import Contained, report
from trio_sse.server.fleet import Fleet
from trio_sse.server.http1 import Head, OtherRequest, Replayed, TooLarge, read_head
from trio_sse.server.poller import Poller
from trio_sse.server.requests import admit, is_for_a_stream, refuse
from trio_sse.service import Service

log = structlog.stdlib.get_logger("trio_sse.server.front")

STOP_GRACE_SECONDS = 1.0
"""Seconds that requests have to end by themselves once the stop has begun, including the hundred streams of
one HTTP/2 connection. Hypercorn would wait forever for a client that does not read: its writes have no
deadline and are shielded from cancellation."""

_Handler = Callable[[Any], Awaitable[object]]
_Opened = Any  # a trio.SocketStream, a trio.SSLStream, or an asyncio.StreamWriter


class Front:
    """Serves the connections of one service. Its own tasks run in `nursery`; `run` must run too."""

    def __init__(self, service: Service, nursery: trio.Nursery) -> None:
        self._service = service
        self._nursery = nursery
        self._open: dict[_Opened, trio.CancelScope | None] = {}
        self._unasked: set[trio.CancelScope] = set()
        self._one_left = trio.Event()
        self._servers: list[_AsyncioServer] = []
        self._context_on_trio: WorkerContext | None = None
        self._want = Want()
        self._outage = service.settings.write_timeout_seconds
        self._poller = Poller(partial(report, service.counters, "a connection"))
        self._fleet = Fleet(service, self._poller)
        self._arrivals: Arrivals | None = None  # from the first connection on
        self._connections = nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve streams until cancelled. Then all of them end at once."""
        await self._fleet.run(task_status=task_status)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Replace Hypercorn's `TCPServer`, `raise_shutdown` and ways to accept while the scope is open."""
        ours = {
            hypercorn.trio.run: {
                "TCPServer": self.enter,
                "raise_shutdown": self._raise_shutdown,
                "trio": with_own(trio, serve_listeners=self._serve_listeners, SSLListener=SecureListener),
            },
            hypercorn.asyncio.run: {
                "TCPServer": self.enter_asyncio,
                "raise_shutdown": self._raise_shutdown_asyncio,
                "asyncio": with_own(asyncio, start_server=self._start_server),
            },
        }
        with standing_in(ours, "streams are served by Quart, more slowly"):
            yield

    async def _raise_shutdown(self, trigger: Callable[[], Awaitable[Any]]) -> None:
        """Wait for the stop, then drain. Hypercorn's worker accepts connections until this raises
        ShutdownError."""
        await self._service.stopping.after(trigger)
        raise ShutdownError

    async def _raise_shutdown_asyncio(self, trigger: Callable[[], Awaitable[Any]]) -> None:
        loop: Any = asyncio.get_running_loop()
        after = self._service.stopping.after
        await loop.trio_as_future(after, trio_asyncio.aio_as_trio(trigger, loop=loop))
        raise ShutdownError

    async def _serve_listeners(
        self, handler: Any, listeners: list[Any], *, handler_nursery: trio.Nursery
    ) -> NoReturn:
        """In place of trio.serve_listeners."""
        self._connections = handler_nursery
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                if isinstance(listener, SecureListener):
                    take = partial(self._take_secure, handler, listener.ssl_context)
                    nursery.start_soon(self._accept, listener.transport_listener, take)
                else:
                    nursery.start_soon(self._accept, listener, partial(self._take, handler))
            await trio.sleep_forever()

    async def _start_server(
        self,
        callback: Any,
        *,
        sock: socket.socket,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        **_: Any,
    ) -> _AsyncioServer:
        """In place of asyncio.start_server, which logs a hundred tracebacks a second without free
        descriptors."""
        loop: Any = asyncio.get_running_loop()
        secure = {} if ssl is None else {"ssl": ssl, "ssl_handshake_timeout": ssl_handshake_timeout}

        async def move_over(stream: trio.SocketStream) -> None:
            accepted = socket.socket(fileno=stream.socket.detach())
            hand_over = partial(
                loop.connect_accepted_socket,
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), callback, loop=loop),
                accepted,
                **secure,
            )
            with contextlib.suppress(OSError):  # the handshake failed
                await trio_asyncio.aio_as_trio(hand_over, loop=loop)()

        sock.listen()  # as wide as `accept_forever` makes it
        sock.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        server = _AsyncioServer()
        self._servers.append(server)

        @self._nursery.start_soon
        async def serve() -> None:
            with server.accepting:
                await self._accept(listener, partial(self._start if secure else self._take, move_over))

        return server

    async def _accept(self, listener: trio.SocketListener, take: Callable[[socket.socket], None]) -> NoReturn:
        await accept_forever(listener, take, outage=self._outage, want=self._want)

    def _take(self, handler: _Handler, sock: socket.socket) -> None:
        """Serve a plain connection. The first one brings what `handler` knows of Hypercorn to `enter`."""
        if self._arrivals is not None:
            self._arrivals.add(sock)
        else:
            self._start(handler, sock)

    def _start(self, handler: _Handler, sock: socket.socket) -> None:
        self._connections.start_soon(handler, _stream_on(sock))

    def _take_secure(self, handler: _Handler, context: ssl.SSLContext, sock: socket.socket) -> None:
        stream = trio.SSLStream(_stream_on(sock), context, server_side=True, https_compatible=True)
        self._connections.start_soon(handler, stream)

    async def enter(
        self,
        app: Any,
        config: Config,
        context: Any,
        state: Any,
        stream: Any,
        received: bytes = b"",
        deadline: float | None = None,
    ) -> None:
        """Serve one connection under Trio, from accept to close, or until the fleet has its stream.

        `stream` is a trio.SocketStream or, with TLS, a trio.SSLStream; `received` was read from it before.
        The head of its request must be there by `deadline`.
        """
        if self._context_on_trio is None:
            self._context_on_trio = context
            self._watch_stop(context.terminated.wait)
        direct = self._service.settings.direct
        if self._arrivals is None and direct and config.max_requests is None:
            self._open_arrivals(partial(self.enter, app, config, context, state), config)
        with _Entered(self, stream):
            if not isinstance(stream, trio.SocketStream):
                await TrioTCPServer(app, config, context, state, stream).run()
                return
            head: Head | OtherRequest | TooLarge | None = OtherRequest(received)
            if direct:
                head = None
                with self._until_the_stop():
                    head = await read_head(stream, received, config, deadline)
            if isinstance(head, Head) and is_for_a_stream(head, config, self._service.settings):
                await context.mark_request()
                opening = None
                with self._until_the_stop():  # it may wait for the key set
                    opening = await admit(self._service, head, config, stream)
                if opening is not None:
                    self._fleet.open(stream.socket.detach(), opening)
            elif isinstance(head, TooLarge):
                await refuse(head.answer, stream, self._outage)
            elif head is not None:
                with trio.CancelScope() as scope:
                    self._open[stream] = scope
                    rest = Replayed(stream, head.received, scope)
                    await TrioTCPServer(app, config, context, state, rest).run()  # type: ignore[arg-type]

    def _open_arrivals(self, enter: Callable[..., Awaitable[None]], config: Config) -> None:
        def hand_over(sock: socket.socket, received: bytes, deadline: float) -> None:
            self._connections.start_soon(enter, _stream_on(sock), received, deadline)

        self._arrivals = Arrivals(self._service, self._poller, self._fleet, config, hand_over)
        self._nursery.start_soon(self._arrivals.expire)

    async def enter_asyncio(
        self,
        app: Any,
        loop: Any,
        config: Config,
        context: Any,
        state: Any,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Serve one connection under Hypercorn's asyncio worker, whose loop runs on Trio: its socket moves to
        Trio.

        The first connection brings the arguments of `enter`. Later ones are read by Trio at once, which saves
        asyncio's transport, streams and task for each.
        """
        direct = self._service.settings.direct and config.max_requests is None
        movable = direct and writer.get_extra_info("ssl_object") is None
        if self._context_on_trio is None:
            self._context_on_trio = WorkerContext(None)
            self._watch_stop(trio_asyncio.aio_as_trio(context.terminated.wait, loop=loop))
        with _Entered(self, writer):
            if not movable:
                await AsyncioTCPServer(app, loop, config, context, state, reader, writer).run()
                return
            stream, received = _moved(reader, writer)
            await loop.trio_as_future(
                self.enter, app, config, self._context_on_trio, ConnectionState(state), stream, received
            )

    @contextlib.contextmanager
    def _until_the_stop(self) -> Iterator[None]:
        """A scope that the stop cancels at once: the connection has sent no request yet, or waits for its
        admission."""
        with trio.CancelScope() as scope:
            if self._service.hub.closed:
                scope.cancel()
            self._unasked.add(scope)
            try:
                yield
            finally:
                self._unasked.remove(scope)

    def _watch_stop(self, wait: Callable[[], Awaitable[Any]]) -> None:
        self._nursery.start_soon(self._stop, wait)

    async def _stop(self, wait: Callable[[], Awaitable[Any]]) -> None:
        """End the streams when the worker begins to stop.

        Hypercorn tells an application only after all connections have ended, and streams do not end by
        themselves.
        """
        await wait()
        await self.finish()

    async def finish(self) -> None:
        """End all connections. Streams and connections without a request end at once, all others after
        STOP_GRACE_SECONDS at the latest."""
        for server in self._servers:
            server.close()
        if self._context_on_trio is not None:  # first: an HTTP/2 connection sends GOAWAY with its last stream
            await self._context_on_trio.terminated.set()
        self._service.hub.close()
        if self._arrivals is not None:
            self._arrivals.close()
        for unasked in self._unasked:
            unasked.cancel()
        with trio.move_on_after(STOP_GRACE_SECONDS):
            while self._open:
                self._one_left = trio.Event()
                await self._one_left.wait()
            if len(self._fleet):
                await self._fleet.all_left.wait()
        self._fleet.close()
        for opened, scope in list(self._open.items()):
            _cut(opened)
            if scope is not None:
                scope.cancel()


class SecureListener(NamedTuple):
    """In place of trio.SSLListener: what Hypercorn would make one of."""

    transport_listener: trio.SocketListener
    ssl_context: ssl.SSLContext
    https_compatible: bool


class _AsyncioServer:
    """What Hypercorn closes at the end, in place of an asyncio.Server."""

    def __init__(self) -> None:
        self.accepting = trio.CancelScope()

    def close(self) -> None:
        self.accepting.cancel()

    async def wait_closed(self) -> None:
        """Return at once: Hypercorn itself waits for the connections that were accepted."""


class _Entered(Contained):
    """The scope of one connection, which the front knows while it is open."""

    __slots__ = ("_front", "_opened")

    def __init__(self, front: Front, opened: _Opened) -> None:
        super().__init__(front._service.counters, "a connection")
        self._front = front
        self._opened = opened

    def __enter__(self) -> None:
        self._front._open[self._opened] = None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        del self._front._open[self._opened]
        if not isinstance(self._opened, asyncio.StreamWriter):
            _plain(self._opened).socket.close()  # synchronous, so it cannot be cancelled
        self._front._one_left.set()
        return super().__exit__(kind, error, traceback)


def _moved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[trio.SocketStream, bytes]:
    """The connection's socket, moved from asyncio to Trio, and the bytes that asyncio has read from it."""
    transport = writer.transport
    transport.pause_reading()  # type: ignore[attr-defined]
    received = bytes(reader._buffer)  # type: ignore[attr-defined]  # read() would wait if it is empty
    sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    transport.abort()  # closes asyncio's descriptor, not the connection, which has another now
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock)), received


def _stream_on(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _plain(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> trio.SocketStream:
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream


def _cut(opened: _Opened) -> None:
    if isinstance(opened, asyncio.StreamWriter):
        opened.transport.abort()
        return
    with contextlib.suppress(OSError):
        _plain(opened).socket.shutdown(socket.SHUT_RDWR)
