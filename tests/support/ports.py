"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_PORTS = itertools.cycle(random.sample(range(20_000 + 1000 * _WORKER, 21_000 + 1000 * _WORKER), 1000))
"""Each worker of pytest-xdist has its own, and none is given again before all others were."""


def free_port() -> int:
    """A port nobody listens on, below those the kernel gives to clients: a client that tries again and again
    to reach a service that is down could otherwise be given that very port, and connect to itself."""
    while True:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
