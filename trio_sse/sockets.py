"""Options of sockets that bound what a client can cost."""

from __future__ import annotations

import fcntl
import math
import random
import socket
from typing import NamedTuple

import trio

MAX_BACKLOG = 65535
"""More than any kernel allows: net.core.somaxconn is then the limit that counts."""

Socket = socket.socket | trio.socket.SocketType

_TCP = (socket.AF_INET, socket.AF_INET6)

# linux/sockios.h: bytes that were not acknowledged, and those of them that were not sent yet.
_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B


class KeepAlive(NamedTuple):
    """When the kernel looks for a peer that is silent, and when it gives it up (tcp(7), RFC 5482). Seconds.

    Whoever is out of reach for less than `outage` is to survive, whenever that begins. TCP_USER_TIMEOUT
    counts from the last sign of life and overrides the count of probes, so it has room for more than that:

    - Idle: the last probe before the end goes out `outage` after the first one, so one of them gets through.
    - With data on its way: retransmissions come at doubling distances (RFC 6298, 5.5). When the peer is back
      after `outage` the next one may be as far away again, and one round-trip's time-out more.
    """

    outage: float

    @property
    def idle(self) -> tuple[int, int]:
        """Bounds of the silence before the first probe. Each connection has its own, so that those that came
        together are not all probed together."""
        least = math.ceil(self.outage)
        return least, least + max(1, int(self.outage / 2))

    @property
    def interval(self) -> int:
        """From probe to probe."""
        return max(1, int(self.outage / 4))

    @property
    def give_up(self) -> float:
        """TCP_USER_TIMEOUT."""
        return max(self.idle[1] + self.outage + self.interval, 2 * self.outage + max(1, self.outage / 2))

    def draw_idle(self) -> int:
        return random.randint(*self.idle)  # noqa: S311  jitter, not a secret


def bound_dead_peer(sock: Socket, outage: float) -> None:
    """Let the kernel end a connection whose peer is gone, but none whose peer is away for less than `outage`
    seconds: see KeepAlive. A socket that is not TCP has no such peer.

    On a listening socket the options pass on to every connection it accepts.
    """
    if sock.family not in _TCP:
        return
    bounds = KeepAlive(outage)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, bounds.idle[1])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, bounds.interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(bounds.give_up * 1000))


def spread_probes(sock: Socket, outage: float) -> None:
    """Give a connection whose listener had `bound_dead_peer` a time of its own for its first probe."""
    if sock.family in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KeepAlive(outage).draw_idle())


def is_unacknowledged(fd: int) -> bool:
    """Whether the peer owes an acknowledgement: it is out of reach then, and the kernel's to give up. A peer
    that only reads nothing acknowledges what was sent, and lets nothing more be sent."""
    try:
        in_all, unsent = (
            int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), "little")
            for request in (_SIOCOUTQ, _SIOCOUTQNSD)
        )
    except OSError:  # not TCP
        return False
    return in_all > unsent


def widen(listener: socket.socket, outage: float) -> None:
    """Give a listening socket the kernel's own backlog, and its connections `bound_dead_peer`.

    Hypercorn's backlog is 100: when more clients than that connect at once the kernel drops SYNs, and each
    costs its client a second. listen(2) may be called again.
    """
    listener.listen(MAX_BACKLOG)
    bound_dead_peer(listener, outage)
