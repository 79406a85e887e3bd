"""Socket options that bound what a client can cost."""

from __future__ import annotations

import fcntl
import math
import os
import random
import socket
from collections.abc import Callable
from typing import NamedTuple

import trio

MAX_BACKLOG = 65535
"""More than any kernel allows, so net.core.somaxconn is the limit."""

Socket = socket.socket | trio.socket.SocketType

_TCP = (socket.AF_INET, socket.AF_INET6)

# linux/sockios.h: bytes not yet acknowledged, and of these the bytes not yet sent.
_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B


class KeepAlive(NamedTuple):
    """When the kernel probes a silent peer, and when it gives the peer up (tcp(7), RFC 5482). In seconds.

    A connection must survive an outage shorter than `outage`, whenever it begins. TCP_USER_TIMEOUT counts
    from the last packet of the peer and overrides the number of probes, so it is longer than `outage`:

    - Idle: the last probe before the end is sent `outage` after the first one, so one of them gets through.
    - With data in flight: each retransmission waits twice as long as the one before (RFC 6298, 5.5). When the
      peer is back after `outage`, the next one may be as far away again, plus one retransmission time-out.
    """

    outage: float

    @property
    def idle(self) -> tuple[int, int]:
        """Bounds of the silence before the first probe. Each connection draws its own time, so that
        connections opened together are not probed together."""
        least = math.ceil(self.outage)
        return least, least + max(1, int(self.outage / 2))

    @property
    def interval(self) -> int:
        """Seconds from one probe to the next."""
        return max(1, int(self.outage / 4))

    @property
    def give_up(self) -> float:
        """TCP_USER_TIMEOUT."""
        return max(self.idle[1] + self.outage + self.interval, 2 * self.outage + max(1, self.outage / 2))


def bound_dead_peer(sock: Socket, outage: float) -> None:
    """Let the kernel end a connection whose peer is gone, but none whose peer is away for less than `outage`
    seconds: see KeepAlive. A socket that is not TCP stays as it is.

    Connections inherit the options of the listening socket that accepts them.
    """
    if sock.family not in _TCP:
        return
    bounds = KeepAlive(outage)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, bounds.idle[1])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, bounds.interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(bounds.give_up * 1000))


def spreading(listener: Socket, outage: float) -> Callable[[Socket], None]:
    """A function that draws the time of the first probe for a connection that `listener` accepted.
    `bound_dead_peer` must have been called for the listener."""
    if listener.family not in _TCP:
        return _as_it_is
    least, most = KeepAlive(outage).idle
    choices = most + 1 - least

    def spread_probes(sock: Socket) -> None:
        idle = least + int(choices * random.random())  # noqa: S311  jitter, not a secret
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)

    return spread_probes


def _as_it_is(sock: Socket) -> None:
    pass


def receive(fd: int, most: int) -> bytes | None:
    """Read without waiting. None: nothing has come yet. b"": the client has left."""
    try:
        return os.read(fd, most)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def is_unacknowledged(fd: int) -> bool:
    """Whether sent bytes are not acknowledged. Then the peer is out of reach, and the kernel ends the
    connection in time. A peer that only does not read acknowledges what was sent and closes its window."""
    try:
        in_all, unsent = (
            int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), "little")
            for request in (_SIOCOUTQ, _SIOCOUTQNSD)
        )
    except OSError:  # not TCP
        return False
    return in_all > unsent


def unacknowledged(fd: int) -> int:
    """Bytes that were sent, or are to be, and that the peer has not acknowledged. 0 where nobody can say."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, _SIOCOUTQ, bytes(4)), "little")
    except OSError:
        return 0


def widen(listener: Socket, outage: float) -> None:
    """Give a listening socket the kernel's largest backlog, and its connections `bound_dead_peer` and what
    Trio's own streams have.

    Hypercorn's backlog is 100. When more clients connect at once, the kernel drops SYNs, and each costs its
    client a second. listen(2) may be called again on a socket that listens.
    """
    listener.listen(MAX_BACKLOG)
    bound_dead_peer(listener, outage)
    if listener.family in _TCP:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A full kernel buffer hides from us that a client does not read (Trio sets the same).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 14)
