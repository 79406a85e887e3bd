"""From a listening socket to its connections, through times when the process may open no more files."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from trio_sse.server.accepting import QUIET_SECONDS, Want, serve_listeners


class Failing:
    """A listener that fails so before it accepts."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)
        self._far: list[trio.socket.SocketType] = []
        self.socket = socket.create_server(("127.0.0.1", 0))

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self._errors:
            number = self._errors.pop()
            raise OSError(number, os.strerror(number))
        near, far = trio.socket.socketpair()
        self._far.append(far)
        return trio.SocketStream(near)

    async def aclose(self) -> None:
        self.socket.close()
        for far in self._far:
            far.close()


async def serve(*listeners: Failing) -> None:
    """Until one is accepted."""
    async with trio.open_nursery() as nursery:

        async def accepted(stream: trio.SocketStream) -> None:
            stream.socket.close()
            nursery.cancel_scope.cancel()

        await serve_listeners(accepted, list(listeners), outage=20, want=Want(), handler_nursery=nursery)


@pytest.mark.parametrize(
    ("number", "named"),
    [(errno.EMFILE, "LimitNOFILE"), (errno.ENFILE, "fs.file-max"), (errno.ENOBUFS, "memory")],
)
async def test_out_of_descriptors_it_says_so_once_and_goes_on(
    autojump_clock: MockClock, number: int, named: str
) -> None:
    with capture_logs() as logs:
        await serve(Failing(*[number] * 50))
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


async def test_another_error_is_raised() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await serve(Failing(errno.EINVAL))
    assert raised.group_contains(OSError, match="Invalid")


async def test_each_listener_has_the_bounds_and_each_connection_its_own_probes() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    seen: list[int] = []
    async with trio.open_nursery() as nursery:

        async def accepted(stream: trio.SocketStream) -> None:
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 55_000
            seen.append(stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
            if len(seen) == 100:
                nursery.cancel_scope.cancel()

        @nursery.start_soon
        async def server() -> None:
            await serve_listeners(accepted, [listener], outage=20, want=Want(), handler_nursery=nursery)

        port = listener.socket.getsockname()[1]
        for _ in range(100):
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    assert len(set(seen)) > 5


async def test_with_nothing_to_listen_on_it_waits(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1000) as waiting:
        await serve()
    assert waiting.cancelled_caught
