"""Accepting connections from listening sockets, also while the process can open no more files."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import structlog
import trio

from trio_sse.delivery.log_limits import LogLimit
from trio_sse.sockets import spread_probes, widen

log = structlog.stdlib.get_logger("trio_sse.server.accepting")

AGAIN_SECONDS = 0.1
"""Seconds after which an accept(2) that lacked a resource is tried again. Nothing tells when one is free."""

QUIET_SECONDS = 60

_WANT = {
    errno.EMFILE: "this process may open no more files: raise LimitNOFILE (systemd) or `ulimit -n`",
    errno.ENFILE: "this machine may open no more files: raise fs.file-max (sysctl), or lower LimitNOFILE",
    errno.ENOBUFS: "the kernel has no memory for more sockets",
    errno.ENOMEM: "the kernel has no memory for more sockets",
}

_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Want:
    """Logs what is lacking when a connection cannot be accepted: one line a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log_limit = LogLimit(QUIET_SECONDS, clock)

    def report(self, error: BaseException | None) -> bool:
        """Log `error` if it is a lack of resources, and return whether it is. Other errors are not logged."""
        reason = _WANT.get(error.errno or 0) if isinstance(error, OSError) else None
        if reason is None:
            return False
        if self._log_limit.passed() is not None:
            log.error(f"new connections wait: {reason}", error=str(error))
        return True


class PatientListener(trio.abc.Listener[_Stream]):
    """A listener around another. It bounds the connections of that one, and waits when that one lacks a
    resource."""

    def __init__(
        self, listener: trio.SocketListener | trio.SSLListener[trio.SocketStream], outage: float, want: Want
    ) -> None:
        self._listener: Any = listener
        self._outage = outage
        self._want = want

    async def accept(self) -> _Stream:
        while True:
            try:
                stream: _Stream = await self._listener.accept()
            except OSError as error:
                if not self._want.report(error):
                    raise
                await trio.sleep(AGAIN_SECONDS)
            else:
                plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
                spread_probes(plain.socket, self._outage)
                return stream

    async def aclose(self) -> None:
        await self._listener.aclose()


async def serve_listeners(
    handler: Callable[[Any], Awaitable[object]],
    listeners: list[Any],
    *,
    outage: float,
    want: Want,
    handler_nursery: trio.Nursery,
) -> NoReturn:
    """trio.serve_listeners with bounded connections, and with waiting when a resource is lacking. With no
    listeners it waits until cancelled."""
    for listener in listeners:
        plain: Any = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
        widen(plain.socket, outage)
    patient = [PatientListener(listener, outage, want) for listener in listeners]
    if not patient:
        await trio.sleep_forever()
    await trio.serve_listeners(handler, patient, handler_nursery=handler_nursery)
