"""Connections from accept to their first request."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import get, read, settings
from tests.support.tokens import SECRET
from trio_sse.server.arrivals import Arrivals
from trio_sse.server.fleet import Fleet
from trio_sse.server.poller import Poller
from trio_sse.server.tls import Tls
from trio_sse.service import Service


class Door:
    """Lets connections in to a service, and keeps those that were handed over."""

    def __init__(self, **values: Any) -> None:
        self.service = Service(settings(**values))
        self.handed_over: list[tuple[bytes, float]] = []
        self.errors: list[Exception] = []
        poller = Poller(self.errors.append)
        self.fleet = Fleet(self.service, poller)
        self.arrivals = Arrivals(self.service, poller, self.fleet, Config(), self._hand_over)

    def _hand_over(self, sock: socket.socket, _: Tls | None, received: bytes, deadline: float) -> None:
        self.handed_over.append((received, deadline))
        sock.close()

    def come(self, said: bytes = b"") -> trio.SocketStream:
        """A client that says something before it is accepted."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.sendall(said)
        self.arrivals.add(near)
        return trio.SocketStream(trio.socket.from_stdlib_socket(far))


@asynccontextmanager
async def door_of(**values: Any) -> AsyncIterator[Door]:
    door = Door(**values)
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        await nursery.start(door.fleet.run)
        nursery.start_soon(door.arrivals.expire)
        yield door
        nursery.cancel_scope.cancel()
    assert len(door.arrivals) == len(door.fleet) == len(door.service.hub) == 0
    assert len(os.listdir("/proc/self/fd")) == before - 1, "the poller's own is closed too"


@pytest.mark.parametrize("early", [True, False])
async def test_a_request_for_a_stream_is_answered_without_a_task(early: bool) -> None:
    async with door_of() as door:
        async with door.come(get("/sse?user_id=ann") if early else b"") as client:
            if not early:
                assert len(door.arrivals) == 1
                await client.send_all(get("/sse?user_id=ann"))
            assert b"event: connected" in await read(client, b"}\n\n")
            assert (len(door.arrivals), door.service.hub.users, door.handed_over) == (0, ["ann"], [])
        await door.fleet.all_left.wait()


@pytest.mark.parametrize(
    "said",
    [
        get("/healthz"),
        b"GET /sse HT",
        get("/sse", "Upgrade: websocket"),
        get("/sse", version="1.0"),
        b"POST /sse HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"\r\n",
        get("/sse", "A: " + "b" * 9000),
    ],
)
@pytest.mark.parametrize("early", [True, False])
async def test_anything_else_is_handed_over_with_all_that_was_read(said: bytes, early: bool) -> None:
    async with door_of() as door:
        deadline = trio.current_time() + Config().keep_alive_timeout
        async with door.come(said if early else b"") as client:
            if not early:
                await client.send_all(said)
                await wait_all_tasks_blocked()
            ((received, until),) = door.handed_over
            assert (received, len(door.arrivals), len(door.fleet)) == (said, 0, 0)
            assert until == pytest.approx(deadline, abs=1)


async def test_who_is_refused_is_told_why() -> None:
    async with door_of() as door, door.come(get("/sse?user_id=*")) as client:
        assert (await read(client)).startswith(b"HTTP/1.1 400 ")
    async with door_of(auth="jwt", jwt_secret=SECRET) as door, door.come(get("/sse")) as client:
        assert (await read(client)).startswith(b"HTTP/1.1 401 ")


async def test_whoever_leaves_or_says_nothing_is_forgotten(autojump_clock: MockClock) -> None:
    async with door_of() as door:
        leaver, silent = door.come(), door.come()
        await leaver.aclose()
        await wait_all_tasks_blocked()
        assert len(door.arrivals) == 1
        await trio.sleep(Config().keep_alive_timeout / 2)
        later = door.come()
        await trio.sleep(Config().keep_alive_timeout / 2 + 0.1)
        assert len(door.arrivals) == 1
        assert await read(silent) == b""
        await later.send_all(get("/sse"))
        assert b"event: connected" in await read(later, b"}\n\n")
        await trio.sleep(10 * Config().keep_alive_timeout)
        assert len(door.fleet) == 1
        await silent.aclose()
        await later.aclose()


async def test_closed_all_that_said_nothing_are_gone_and_streams_are_not() -> None:
    async with door_of() as door:
        silent, stream = door.come(), door.come(get("/sse"))
        door.arrivals.close()
        assert await read(silent) == b""
        assert (len(door.arrivals), len(door.fleet)) == (0, 1)
        await silent.aclose()
        await stream.aclose()


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("where", ["admit_now", "open"])
async def test_an_error_ends_one_connection_and_is_told(
    early: bool, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door_of() as door:

        def fail(*_: Any) -> None:
            raise BrokenError

        with monkeypatch.context() as broken:
            broken.setattr(door.service.admission if where == "admit_now" else door.service, where, fail)
            async with door.come(get("/sse") if early else b"") as client:
                if not early:
                    await client.send_all(get("/sse"))
                assert await read(client) == b""
        assert [type(error) for error in door.errors] == [BrokenError]
        async with door.come(get("/sse")) as another:
            assert b"event: connected" in await read(another, b"}\n\n")


@given(st.binary(max_size=200), st.booleans())
async def test_whatever_comes_first_somebody_has_it(said: bytes, early: bool) -> None:
    async with door_of() as door:
        client = door.come(said if early else b"")
        if not early and said:
            await client.send_all(said)
        await wait_all_tasks_blocked()
        assert [received for received, _ in door.handed_over] == ([said] if said else [])
        assert len(door.arrivals) == (not said)
        await client.aclose()
