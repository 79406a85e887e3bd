"""The front: every connection enters here, in place of Hypercorn's TCP servers.

`GET /sse` over HTTP/1, with TLS or without, is served on its own socket. Hypercorn serves anything else, with
the bytes already read. An error of one connection ends only that connection, and the service learns when the
stop begins.

This relies on what Hypercorn does not promise. `hypercorn.trio.run` and `hypercorn.asyncio.run`
look up the names `TCPServer` and `raise_shutdown` after the lifespan start-up, await what the first returns
for every connection, and stop when the second raises. From then on they accept with `trio.serve_listeners`
and `asyncio.start_server`, which tells the server's own listening sockets from others of the process. Both
get a function that passes a connection on to `TCPServer`, whatever it is. Called with None, it brings what
Hypercorn serves connections with, before the first one comes.
tests/integration/test_libraries.py fails when that no longer holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

import hypercorn.asyncio.run
import hypercorn.trio.run
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
from trio_sse.server.fleet import Fleet, Stream
from trio_sse.server.http1 import Head, OtherRequest, Replayed, TooLarge, read_head
from trio_sse.server.own_listeners import own_listener
from trio_sse.server.poller import Poller
from trio_sse.server.requests import admit, is_for_a_stream, refuse, socket_of
from trio_sse.server.secure import SecureStream
from trio_sse.server.tls import Begun, Tls
from trio_sse.service import Service

STOP_GRACE_SECONDS = 1.0
"""Seconds that requests have to end by themselves once the stop has begun, including the hundred streams of
one HTTP/2 connection. Hypercorn would wait forever for a client that does not read: its writes have no
deadline and are shielded from cancellation."""

_Handler = Callable[[Any], Awaitable[object]]
_Take = Callable[[socket.socket], None]
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
        self._arrivals: Arrivals | None = None  # unless Hypercorn serves all
        self._connections = nursery
        self._workers = 1

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
        await handler(None)
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                if isinstance(listener, SecureListener):
                    context = listener.ssl_context
                    take = self._taking(context, partial(self._start_secure, handler, context))
                    listener = listener.transport_listener
                else:
                    take = self._taking(None, partial(self._start, handler))
                nursery.start_soon(self._accept, listener, take)
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
        await loop.create_task(callback(None, None))

        async def move_over(stream: trio.SocketStream) -> None:
            accepted = socket.socket(fileno=stream.socket.detach())
            secure = {} if ssl is None else {"ssl": ssl, "ssl_handshake_timeout": ssl_handshake_timeout}
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
                await self._accept(listener, self._taking(ssl, partial(self._start, move_over)))

        return server

    async def _accept(self, listener: trio.SocketListener, take: _Take) -> None:
        """Accept from a socket that may be shared with other workers, and from one of this worker's own."""
        accept = partial(accept_forever, take=take, outage=self._outage, want=self._want)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            if (own := own_listener(listener.socket, self._workers)) is not None:
                own_one = trio.SocketListener(trio.socket.from_stdlib_socket(own))
                nursery.start_soon(partial(accept, own_one, shared=False))

    def _taking(self, context: ssl.SSLContext | None, start: _Take) -> _Take:
        """What takes accepted connections. `start` does if Hypercorn serves them all."""
        if self._arrivals is None:
            return start
        return self._arrivals.add if context is None else partial(self._arrivals.add_secure, context)

    def _start(self, handler: _Handler, sock: socket.socket) -> None:
        self._connections.start_soon(handler, _stream_on(sock))

    def _start_secure(self, handler: _Handler, context: ssl.SSLContext, sock: socket.socket) -> None:
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
        """Serve one connection under Trio, until it is closed or the fleet has its stream.

        `stream` is a trio.SocketStream, a trio.SSLStream before its handshake, or a Begun. `received` was
        read from it before. The head of its request must be there by `deadline`. None is no connection: it is
        before the first one.
        """
        if self._context_on_trio is None:
            self._context_on_trio = context
            self._watch_stop(context.terminated.wait)
        if stream is None:
            self._open_arrivals(partial(self.enter, app, config, context, state), config)
            return
        begun = stream if isinstance(stream, Begun) else None
        opened: Any = stream if begun is None else begun.stream
        with _Entered(self, opened):
            if isinstance(opened, trio.SSLStream) and begun is None:
                if await self._shaken(opened, config):
                    await TrioTCPServer(app, config, context, state, opened).run()
                return
            direct = self._service.settings.direct and not (begun and begun.tls.speaks_http2)
            head: Head | OtherRequest | TooLarge | None = OtherRequest(received)
            if direct:
                head = None
                with self._until_the_stop():
                    head = await read_head(opened, received, config, deadline)
            if isinstance(head, Head) and is_for_a_stream(head, config, self._service.settings):
                await context.mark_request()
                opening = None
                with self._until_the_stop():  # it may wait for the key set
                    opening = await admit(self._service, head, config, opened)
                if opening is not None:
                    make = Stream if begun is None else partial(SecureStream, begun.tls)
                    self._fleet.open(socket_of(opened).detach(), opening, make)
            elif isinstance(head, TooLarge):
                await refuse(head.answer, opened, self._outage)
            elif head is not None and begun is not None:
                begun.put_back(head.received)
                await TrioTCPServer(app, config, context, state, opened).run()
            elif head is not None:
                with trio.CancelScope() as scope:
                    self._open[opened] = scope
                    rest = Replayed(opened, head.received, scope)
                    await TrioTCPServer(app, config, context, state, rest).run()  # type: ignore[arg-type]

    async def _shaken(self, stream: trio.SSLStream[trio.SocketStream], config: Config) -> bool:
        """Make the handshake. Returns whether it came to its end, in time and before the stop."""
        in_time = trio.move_on_after(config.ssl_handshake_timeout)
        with self._until_the_stop(), in_time, contextlib.suppress(trio.BrokenResourceError):
            await stream.do_handshake()
            return True
        return False

    def _open_arrivals(self, enter: Callable[..., Awaitable[None]], config: Config) -> None:
        """Let connections arrive without Hypercorn, unless it must serve, or count, all of them."""
        self._workers = config.workers
        if self._arrivals is not None or not self._service.settings.direct or config.max_requests is not None:
            return

        def hand_over(sock: socket.socket, tls: Tls | None, received: bytes, deadline: float) -> None:
            stream = _stream_on(sock)
            opened = stream if tls is None else Begun(tls, stream)
            self._connections.start_soon(enter, opened, received, deadline)

        self._arrivals = Arrivals(self._service, self._poller, self._fleet, config, hand_over)
        self._nursery.start_soon(self._arrivals.expire)

    async def enter_asyncio(
        self,
        app: Any,
        loop: Any,
        config: Config,
        context: Any,
        state: Any,
        reader: asyncio.StreamReader | None,
        writer: asyncio.StreamWriter | None,
    ) -> None:
        """Serve one connection under Hypercorn's asyncio worker, whose loop runs on Trio. Only if Hypercorn
        serves all of them does one come here; otherwise Trio accepts them and `enter` serves them.

        Without reader and writer it is before the first one.
        """
        if self._context_on_trio is None:
            self._context_on_trio = on_trio = WorkerContext(None)
            self._watch_stop(trio_asyncio.aio_as_trio(context.terminated.wait, loop=loop))
            self._open_arrivals(partial(self.enter, app, config, on_trio, ConnectionState(state)), config)
        if reader is None or writer is None:
            return
        with _Entered(self, writer):
            await AsyncioTCPServer(app, loop, config, context, state, reader, writer).run()

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
            socket_of(self._opened).close()  # synchronous, so it cannot be cancelled
        self._front._one_left.set()
        return super().__exit__(kind, error, traceback)


def _stream_on(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _cut(opened: _Opened) -> None:
    if isinstance(opened, asyncio.StreamWriter):
        opened.transport.abort()
        return
    with contextlib.suppress(OSError):
        socket_of(opened).shutdown(socket.SHUT_RDWR)
