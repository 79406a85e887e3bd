"""Accepting connections from listening sockets, also while the process can open no more files."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import NoReturn

import structlog
import trio

from trio_sse.delivery.log_limits import LogLimit
from trio_sse.server.poller import BUDGET_SECONDS
from trio_sse.sockets import spreading, widen

log = structlog.stdlib.get_logger("trio_sse.server.accepting")

AGAIN_SECONDS = 0.1
"""Seconds after which an accept(2) that lacked a resource is tried again. Nothing tells when one is free."""

QUIET_SECONDS = 60

LAST_SECONDS = 0.1
"""How long connections are accepted that wait when it ends: however many come, it does end."""

_WANT = {
    errno.EMFILE: "this process may open no more files: raise LimitNOFILE (systemd) or `ulimit -n`",
    errno.ENFILE: "this machine may open no more files: raise fs.file-max (sysctl), or lower LimitNOFILE",
    errno.ENOBUFS: "the kernel has no memory for more sockets",
    errno.ENOMEM: "the kernel has no memory for more sockets",
}

# accept(2): errors of the connection, which is gone. The listening socket is well.
_OF_THE_CONNECTION = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.ENETDOWN,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
}


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


async def accept_forever(
    listener: trio.SocketListener,
    take: Callable[[socket.socket], None],
    *,
    outage: float,
    want: Want,
    shared: bool = True,
) -> NoReturn:
    """Give `take` each connection: bounded, and not blocking. Waits when a resource is lacking.

    It accepts all that wait, but for no longer than BUDGET_SECONDS at a time. Raises OSError if the listening
    socket fails. The socket is closed at the end. If it is not `shared` with other processes, those that wait
    there are accepted first: the kernel would reset them.
    """
    widen(listener.socket, outage)
    spread_probes = spreading(listener.socket, outage)
    with listener.socket, socket.socket(fileno=os.dup(listener.socket.fileno())) as sock:
        kind = sock.family, sock.type, sock.proto

        def accept_until(end: float) -> None:
            """Raises OSError: BlockingIOError when none waits any more."""
            while time.perf_counter() < end:
                # As socket.accept does, which looks up `kind` each time: half of its time.
                fd, _ = sock._accept()  # type: ignore[attr-defined]
                accepted = socket.socket(*kind, fileno=fd)
                accepted.setblocking(False)
                spread_probes(accepted)
                take(accepted)

        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    accept_until(time.perf_counter() + BUDGET_SECONDS)
                except BlockingIOError:
                    pass
                except OSError as error:
                    if want.report(error):
                        await trio.sleep(AGAIN_SECONDS)
                    elif error.errno not in _OF_THE_CONNECTION:
                        raise
        finally:
            if not shared:
                with contextlib.suppress(OSError):
                    accept_until(time.perf_counter() + LAST_SECONDS)
