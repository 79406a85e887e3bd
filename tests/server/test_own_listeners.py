"""A listening socket for each worker, beside the shared one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_sse.server import own_listeners
from trio_sse.server.own_listeners import own_listener

CONNECTIONS = 400


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def shared(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A socket that listens, as the main process makes it."""
    both = request.param == "::"
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=both, backlog=1000) as sock:
        sock.setblocking(False)
        yield sock


def arrivals(shared: socket.socket, *own: socket.socket | None) -> list[int]:
    """How many of many connections come to each of these sockets."""
    host, port = shared.getsockname()[:2]
    if host == "::":
        host = "127.0.0.1"
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection((host, port)))
        return [waiting(sock) for sock in (shared, *own) if sock is not None]


def waiting(listener: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_each_worker_gets_its_share_and_the_shared_socket_nothing(shared: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        own = [own_listener(shared, 4) for _ in range(4)]
        for sock in own:
            assert sock is not None
            stack.enter_context(sock)
        first, *each = arrivals(shared, *own)
    assert first == 0
    assert sum(each) == CONNECTIONS
    assert all(50 < count < 150 for count in each), each  # by chance once in 10 ** 8 times, and less


def test_the_shared_one_takes_what_comes_while_workers_are_started_anew(shared: socket.socket) -> None:
    for _ in range(2):
        own = own_listener(shared, 2)
        assert own is not None
        with own:
            assert sum(arrivals(shared, own)) == CONNECTIONS
        assert arrivals(shared) == [CONNECTIONS]


def test_without_the_program_all_of_them_get_some(
    shared: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_listeners, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
    with contextlib.ExitStack() as stack:
        own = [own_listener(shared, 2) for _ in range(2)]
        for sock in own:
            assert sock is not None
            stack.enter_context(sock)
        assert all(count > 50 for count in arrivals(shared, *own))


def test_an_address_in_use_is_still_told(shared: socket.socket) -> None:
    own = own_listener(shared, 2)
    assert own is not None
    host, port = shared.getsockname()[:2]
    with own, pytest.raises(OSError, match="in use"):
        socket.create_server((host, port), family=shared.family)


@pytest.mark.parametrize("both", [False, True])
def test_it_is_for_ipv4_too_where_the_shared_one_is(both: bool) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as shared:
        own = own_listener(shared, 2)
        assert own is not None
        with own:
            assert own.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == (not both)


def test_one_worker_has_none(shared: socket.socket) -> None:
    assert own_listener(shared, 1) is None


def test_a_unix_socket_stays_the_only_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.fspath(tmp_path / "socket"))
        assert own_listener(unix, 2) is None


def test_where_the_kernel_allows_none_the_shared_one_stays() -> None:
    with socket.socket() as nowhere:
        nowhere.bind(("127.0.0.1", 0))
        address = nowhere.getsockname()
    with socket.socket() as other, socket.create_server(address) as taken:

        class Elsewhere:
            """A shared socket at an address that is another's."""

            family = socket.AF_INET
            setsockopt = other.setsockopt

            def getsockname(self) -> tuple[str, int]:
                name: tuple[str, int] = taken.getsockname()
                return name

        assert own_listener(Elsewhere(), 2) is None  # type: ignore[arg-type]
