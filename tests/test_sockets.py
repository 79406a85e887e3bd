"""Options that bound what a client can cost."""

from __future__ import annotations

import os
import socket

import trio

from trio_sse.sockets import MAX_BACKLOG, bound_dead_peer, listening, widen


def test_connections_inherit_the_bound_from_the_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        widen(listener, 20)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 6


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


def test_less_than_a_second_is_a_second_for_the_kernels_coarse_clock() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound_dead_peer(listener, 0.5)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 500


def test_a_unix_socket_has_no_such_peer() -> None:
    near, far = trio.socket.socketpair()
    with near, far:
        bound_dead_peer(near, 20)


def test_only_listening_tcp_sockets_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as other:
        with socket.create_connection(listener.getsockname()) as client:
            found = {}
            for fd, duplicate in listening():
                with duplicate:
                    found[fd] = duplicate.getsockname()
        assert found[listener.fileno()] == listener.getsockname()
        assert other.fileno() not in found
        assert client.fileno() not in found
        for fd in found:
            os.fstat(fd)  # the original stays open
