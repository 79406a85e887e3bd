"""From a listening socket to its connections, through times when the process may open no more files."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import until
from trio_sse.server.accepting import QUIET_SECONDS, Want, accept_forever


class AcceptedError(Exception):
    """Ends the server at its first connection."""


def accepted(sock: socket.socket) -> None:
    sock.close()
    raise AcceptedError


async def serve(monkeypatch: pytest.MonkeyPatch, *errors: int) -> None:
    """Accept one connection. Before it, accept(2) fails with these errors."""
    left = list(errors)
    accept = socket.socket._accept  # type: ignore[attr-defined]

    def failing(sock: socket.socket) -> Any:
        if left:
            number = left.pop()
            raise OSError(number, os.strerror(number))
        return accept(sock)

    monkeypatch.setattr(socket.socket, "_accept", failing)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with listener.socket:
        async with await trio.open_tcp_stream(*listener.socket.getsockname()):
            await accept_forever(listener, accepted, outage=20, want=Want())


@pytest.mark.parametrize(
    ("number", "named"),
    [(errno.EMFILE, "LimitNOFILE"), (errno.ENFILE, "fs.file-max"), (errno.ENOBUFS, "memory")],
)
async def test_out_of_descriptors_it_says_so_once_and_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, number: int, named: str
) -> None:
    with capture_logs() as logs, pytest.raises(AcceptedError):
        await serve(monkeypatch, *[number] * 50)
    (line,) = logs
    assert named in line["event"]
    assert "exc_info" not in line


def test_it_says_so_again_after_a_minute() -> None:
    now = 0.0
    want = Want(lambda: now)
    with capture_logs() as logs:
        for _ in range(30):
            assert want.report(OSError(errno.EMFILE, "x"))
            now += QUIET_SECONDS / 10
    assert len(logs) == 3
    assert not want.report(OSError(errno.EINVAL, "x"))
    assert not want.report(ValueError())
    assert not want.report(OSError())


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN])
async def test_a_connection_that_is_gone_already_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with capture_logs() as logs, pytest.raises(AcceptedError):
        await serve(monkeypatch, number, number)
    assert logs == []


async def test_another_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="Invalid"):
        await serve(monkeypatch, errno.EINVAL)


async def test_each_listener_has_the_bounds_and_each_connection_its_own_probes(nursery: trio.Nursery) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    probes: list[int] = []

    def take(sock: socket.socket) -> None:
        with sock:
            assert sock.getblocking() is False
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 55_000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            probes.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))

    nursery.start_soon(partial(accept_forever, listener, take, outage=20, want=Want()))
    for _ in range(100):
        await (await trio.open_tcp_stream(*listener.socket.getsockname())).aclose()
    await until(lambda: len(probes) == 100)
    assert len(set(probes)) > 5


async def test_a_crowd_is_accepted(nursery: trio.Nursery) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    crowd = [await trio.open_tcp_stream(*listener.socket.getsockname()) for _ in range(50)]
    taken: list[socket.socket] = []
    nursery.start_soon(partial(accept_forever, listener, taken.append, outage=20, want=Want()))
    await wait_all_tasks_blocked()
    assert len(taken) == len(crowd)
    for one in crowd:
        await one.aclose()
    for sock in taken:
        sock.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_who_waits_at_the_end_is_left_to_others_or_accepted(shared: bool) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    taken: list[socket.socket] = []
    async with trio.open_nursery() as nursery:
        accept = partial(accept_forever, outage=20, want=Want(), shared=shared)
        nursery.start_soon(accept, listener, taken.append)
        await wait_all_tasks_blocked()
        with socket.create_connection(listener.socket.getsockname()):
            nursery.cancel_scope.cancel()  # before the task had a turn
            await trio.lowlevel.cancel_shielded_checkpoint()
    assert len(taken) == (0 if shared else 1)
    for sock in taken:
        sock.close()
