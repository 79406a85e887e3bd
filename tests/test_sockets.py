"""Options that bound what a client can cost."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
import trio

from tests.support.inside import until
from trio_sse.sockets import (
    MAX_BACKLOG,
    KeepAlive,
    bound_dead_peer,
    is_unacknowledged,
    spreading,
    unacknowledged,
    widen,
)


def option(sock: socket.socket, name: str) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


@pytest.mark.parametrize("outage", [1, 1.1, 1.5, 2, 2.9, 5, 20, 60, 3600])
def test_an_outage_is_survived_whenever_it_begins(outage: float) -> None:
    bounds = KeepAlive(outage)
    first = bounds.idle[1]
    probes = [first]
    while probes[-1] + bounds.interval < bounds.give_up:  # at the next one the kernel gives up
        probes.append(probes[-1] + bounds.interval)
    assert probes[-1] - first >= outage, "idle: one of the probes finds the peer back"
    sent = 0.0
    distance = min(1, outage / 2)  # a slow network's first time-out
    while sent < outage:
        sent, distance = sent + distance, 2 * distance
    assert sent < bounds.give_up, "with data on its way: so does one of the retransmissions"
    assert bounds.give_up <= max(3 * outage, outage + 4), "somebody who is gone is not kept for long"


def test_connections_inherit_the_bound_from_the_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        widen(listener, 20)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert option(accepted, "TCP_USER_TIMEOUT") == 55_000
            assert option(accepted, "TCP_KEEPIDLE") == 30
            assert option(accepted, "TCP_KEEPINTVL") == 5


def test_probes_are_spread() -> None:
    with socket.socket() as sock:
        bound_dead_peer(sock, 20)
        seen = set()
        spread_probes = spreading(sock, 20)
        for _ in range(300):
            spread_probes(sock)
            seen.add(option(sock, "TCP_KEEPIDLE"))
    assert seen == set(range(20, 31))


def test_the_least_time_out_is_the_kernels_coarse_clock() -> None:
    with socket.socket() as sock:
        bound_dead_peer(sock, 1)
        assert (option(sock, "TCP_KEEPIDLE"), option(sock, "TCP_KEEPINTVL")) == (2, 1)
        assert option(sock, "TCP_USER_TIMEOUT") == 4000


def test_a_listener_gets_the_backlog_of_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        widen(listener, 20)
        clients = []
        for _ in range(20):
            client = socket.socket()
            client.settimeout(0.5)
            client.connect(listener.getsockname())  # with a backlog of 1 the third would wait for a second
            clients.append(client)
        for client in clients:
            client.close()
    assert MAX_BACKLOG >= 4096


def test_a_unix_socket_has_no_such_peer() -> None:
    near, far = trio.socket.socketpair()
    with near, far:
        bound_dead_peer(near, 20)
        spreading(near, 20)(near)
        assert not is_unacknowledged(near.fileno())


def test_what_is_no_socket_has_nothing_to_acknowledge() -> None:
    with Path(__file__).open("rb") as file:
        assert unacknowledged(file.fileno()) == 0


async def test_a_peer_that_reads_nothing_has_acknowledged_what_was_sent() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as near,
    ):
        near.setblocking(False)
        assert not is_unacknowledged(near.fileno())
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(near.fileno(), bytes(100_000))
        await until(lambda: not is_unacknowledged(near.fileno()))  # acknowledgements may be delayed
        assert unacknowledged(near.fileno()) > 0, "and not what could not be sent"
