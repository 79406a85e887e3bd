"""Options of sockets that bound what a client can cost."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

import trio

MAX_BACKLOG = 65535
"""More than any kernel allows: net.core.somaxconn is then the limit that counts."""


class ListenError(Exception):
    """This address cannot be listened on. The text says why, and which settings to look at."""


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on `host` and `port` (0: a free one). Raises ListenError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"{reason} (SSE_HOST, SSE_PORT)") from error


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


def listening() -> Iterator[tuple[int, socket.socket]]:
    """The descriptors of this process that listen for TCP connections, each with a duplicate to work with."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed meanwhile
            continue
        if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            yield int(name), sock
        else:
            sock.close()


def widen(listener: socket.socket, seconds: float) -> None:
    """Give a listening socket the kernel's own backlog, and its connections `bound_dead_peer`.

    Hypercorn's backlog is 100: when more clients than that connect at once the kernel drops SYNs, and each
    costs its client a second. listen(2) may be called again.
    """
    listener.listen(MAX_BACKLOG)
    bound_dead_peer(listener, seconds)
