"""Hypercorn's TCP servers, with what they lack: an error of one connection stays that connection's own, and
the service learns when the stop begins.

The one room that relies on what Hypercorn does not promise: that `hypercorn.trio.run` and
`hypercorn.asyncio.run` look the name `TCPServer` up for every connection, after the lifespan start-up.
tests/integration/test_libraries.py tells when that no longer holds, and when it is no longer needed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Protocol

import hypercorn.asyncio.run
import hypercorn.trio.run
import structlog
import trio
import trio_asyncio
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioTCPServer
from hypercorn.trio.tcp_server import TCPServer as TrioTCPServer

from trio_sse.service import Service

log = structlog.stdlib.get_logger("trio_sse.door")

STOP_GRACE_SECONDS = 0.25
"""How long requests may take to end by themselves once the stop has begun. Hypercorn would wait forever
for a client that does not read: its writes have no deadline and are shielded from cancellation."""


class _Abortable(Protocol):
    def abort(self) -> None:
        """Close the socket under the connection, so that whatever it waits for ends."""
        ...


class Doors:
    """The connections Hypercorn has open for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open: set[_Abortable] = set()
        self._stop_is_watched = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Stand in Hypercorn's place for `TCPServer` while the service is up."""
        doors: dict[Any, Any] = {
            hypercorn.trio.run: partial(TrioDoor, self),
            hypercorn.asyncio.run: partial(AsyncioDoor, self),
        }
        before = {module: vars(module).get("TCPServer") for module in doors}
        if None in before.values():
            log.warning("this Hypercorn has no place for the door; its own connection handling serves")
            yield
            return
        for module, door in doors.items():
            module.TCPServer = door
        try:
            yield
        finally:
            for module, original in before.items():
                module.TCPServer = original

    def watch_stop(self, wait: Callable[[], Awaitable[Any]]) -> None:
        """Close the hub when `wait` returns, which is when the worker begins to stop.

        Hypercorn tells an application only after the connections have ended, which streams never do.
        """
        if not self._stop_is_watched:
            self._stop_is_watched = True
            self._service.nursery.start_soon(self._stop, wait)

    async def _stop(self, wait: Callable[[], Awaitable[Any]]) -> None:
        await wait()
        self._service.hub.close()
        await trio.sleep(STOP_GRACE_SECONDS)
        for door in list(self._open):
            door.abort()

    @contextlib.contextmanager
    def contained(self, door: _Abortable, sock: socket.socket | trio.socket.SocketType) -> Iterator[None]:
        """The life of one connection: whatever it raises ends it and nothing else."""
        bound_dead_peer(sock, self._service.settings.write_timeout_seconds)
        self._open.add(door)
        try:
            yield
        except Exception as error:  # noqa: BLE001  this is what the door is for
            self._report(error)
        except BaseExceptionGroup as group:
            # Cancelled beside an error: the cancellation goes on, the error ends here.
            errors, others = group.split(Exception)
            if errors is not None:
                self._report(errors)
            if others is not None:
                raise others from None
        finally:
            self._open.discard(door)

    def _report(self, error: BaseException) -> None:
        self._service.counters.connection_errors += 1
        log.warning("a connection ended by an error", error=one_line(error))
        log.debug("the error", exc_info=error)


class TrioDoor(TrioTCPServer):
    """One connection under Hypercorn's Trio worker."""

    def __init__(self, doors: Doors, *args: Any) -> None:
        super().__init__(*args)
        self._doors = doors

    @property
    def _socket(self) -> trio.socket.SocketType:
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            return stream.transport_stream.socket
        return stream.socket

    async def run(self) -> None:
        self._doors.watch_stop(self.context.terminated.wait)
        with self._doors.contained(self, self._socket):
            await super().run()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class AsyncioDoor(AsyncioTCPServer):
    """One connection under Hypercorn's asyncio worker, whose loop runs on Trio."""

    def __init__(self, doors: Doors, *args: Any) -> None:
        super().__init__(*args)
        self._doors = doors

    async def run(self) -> None:
        self._doors.watch_stop(trio_asyncio.aio_as_trio(self.context.terminated.wait, loop=self.loop))
        with self._doors.contained(self, self.writer.get_extra_info("socket")):
            await super().run()

    def abort(self) -> None:
        self.writer.transport.abort()


def innermost(error: BaseException) -> BaseException:
    """The first error inside of nested groups. Nurseries wrap a lone error once per level."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """The innermost error as one line of at most 200 characters."""
    error = innermost(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def bound_dead_peer(sock: socket.socket | trio.socket.SocketType, seconds: float) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing for `seconds` (RFC 5482, tcp(7)).

    On a listening socket the options pass on to every connection it accepts.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(seconds / 3)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
