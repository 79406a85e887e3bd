"""Connections from accept to their first request."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypothesis
import pytest
import trio
from hypercorn.config import Config
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fleets import files
from tests.support.inside import get, read, settings
from tests.support.secure import VERSIONS, Client, client_context, heard, server_context
from tests.support.tokens import SECRET
from trio_sse.server import arrivals
from trio_sse.server.arrivals import Arrival, Arrivals
from trio_sse.server.fleet import Fleet
from trio_sse.server.poller import Poller
from trio_sse.server.tls import Begun, Tls
from trio_sse.service import Service


class Door:
    """Lets connections in to a service, and keeps those that were handed over."""

    def __init__(self, **values: Any) -> None:
        self.service = Service(settings(**values))
        self.handed_over: list[tuple[bytes, float]] = []
        self.secure: list[Begun] = []
        """Those with TLS that were handed over."""
        self.errors: list[Exception] = []
        poller = Poller(self.errors.append)
        self.fleet = Fleet(self.service, poller)
        self.arrivals = Arrivals(self.service, poller, self.fleet, Config(), self._hand_over)

    def _hand_over(self, sock: socket.socket, tls: Tls | None, received: bytes, deadline: float) -> None:
        self.handed_over.append((received, deadline))
        if tls is None:
            sock.close()
        else:
            self.secure.append(Begun(tls, trio.SocketStream(trio.socket.from_stdlib_socket(sock))))
            self.secure[-1].put_back(received)

    def come(self, said: bytes = b"", *, secure: bool = False) -> trio.SocketStream:
        """A client that says something before it is accepted."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.sendall(said)
        if secure:
            self.arrivals.add_secure(server_context(), near)
        else:
            self.arrivals.add(near)
        return trio.SocketStream(trio.socket.from_stdlib_socket(far))

    async def come_and_shake(
        self, *alpn: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> trio.SSLStream[trio.SocketStream]:
        """A client that has come so far as to make its request."""
        context = client_context(version, *alpn)
        stream = trio.SSLStream(self.come(secure=True), context)
        await stream.do_handshake()
        return stream


@asynccontextmanager
async def door_of(**values: Any) -> AsyncIterator[Door]:
    door = Door(**values)
    before = files()
    async with trio.open_nursery() as nursery:
        await nursery.start(door.fleet.run)
        nursery.start_soon(door.arrivals.expire)
        yield door
        nursery.cancel_scope.cancel()
    for begun in door.secure:
        begun.stream.transport_stream.socket.close()
    assert len(door.arrivals) == len(door.fleet) == len(door.service.hub) == 0
    assert files() == before - 1, "the poller's own is closed too"


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


async def test_who_spoke_in_time_is_heard_though_the_service_was_late(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that all come back at once may wait for their turn for longer than they may be silent."""
    async with door_of() as door:
        broken, client, silent = door.come(), door.come(), door.come()
        monkeypatch.setattr(Arrival, "readable", lambda _: None)  # its turn does not come
        admit_now = door.service.admission.admit_now

        def admit_most(query: bytes, *others: Any) -> Any:
            if b"broken" in query:
                raise BrokenError
            return admit_now(query, *others)

        monkeypatch.setattr(door.service.admission, "admit_now", admit_most)
        await broken.send_all(get("/sse?user_id=broken"))
        await client.send_all(get("/sse?user_id=ann"))
        mock_clock.jump(Config().keep_alive_timeout + 1)
        assert await read(broken) == b""
        assert b"event: connected" in await read(client, b"}\n\n")
        assert await read(silent) == b""
        assert (len(door.arrivals), len(door.errors), door.service.hub.users) == (0, 1, ["ann"])
        for one in (broken, client, silent):
            await one.aclose()
        monkeypatch.undo()


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


versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


@versions
async def test_a_stream_over_tls_is_answered_without_a_task(version: ssl.TLSVersion) -> None:
    async with door_of() as door:
        client = await door.come_and_shake(version=version)
        assert len(door.arrivals) == 1
        await client.send_all(get("/sse?user_id=ann"))
        assert b"event: connected" in await read(client, b"}\n\n")
        assert (len(door.arrivals), door.service.hub.users, door.handed_over) == (0, ["ann"], [])
        await client.aclose()
        await door.fleet.all_left.wait()


@versions
async def test_a_handshake_may_come_byte_by_byte_and_the_request_with_its_end(
    version: ssl.TLSVersion,
) -> None:
    async with door_of() as door:
        client, shaken = Client(client_context(version)), False
        far = door.come(secure=True)
        while not shaken:
            for byte in client.said():
                await far.send_all(bytes([byte]))
                await wait_all_tasks_blocked()
            shaken = client.shake(bytes(await far.receive_some()))
        await far.send_all(client.said(get("/sse?user_id=ann")))
        assert b"event: connected" in await heard(client, far, b"}\n\n")
        assert (door.handed_over, len(door.arrivals)) == ([], 0)
        await far.aclose()


@versions
@pytest.mark.parametrize(
    "said", [get("/healthz"), b"GET /sse HT", get("/sse", version="1.0"), b"\r\n", b"x" * 20_000]
)
async def test_anything_else_over_tls_is_handed_over_with_all_that_was_read(
    said: bytes, version: ssl.TLSVersion
) -> None:
    async with door_of() as door:
        client = await door.come_and_shake(version=version)
        deadline = trio.current_time() + Config().keep_alive_timeout
        await client.send_all(said)
        await wait_all_tasks_blocked()
        ((received, until),) = door.handed_over
        assert said.startswith(received)
        assert until == pytest.approx(deadline, abs=1)
        await client.send_all(b"more")
        server = door.secure[0].stream
        arrived = b""
        while len(arrived) < len(said) + 4:
            arrived += await server.receive_some()
        assert arrived == said + b"more"
        await server.send_all(b"answer")
        assert await client.receive_some() == b"answer"
        await client.transport_stream.aclose()


@versions
async def test_http2_is_handed_over_with_its_preface(version: ssl.TLSVersion) -> None:
    async with door_of() as door:
        client = await door.come_and_shake("h2", "http/1.1", version=version)
        await client.send_all(get("/sse"))  # whatever it says: this is not HTTP/1.1
        await wait_all_tasks_blocked()
        assert [received for received, _ in door.handed_over] == [get("/sse")]
        assert door.secure[0].tls.speaks_http2
        await client.transport_stream.aclose()


async def test_who_is_refused_over_tls_is_told_why() -> None:
    async with door_of() as door:
        client = await door.come_and_shake()
        await client.send_all(get("/sse?user_id=*"))
        received = b""
        while data := await client.receive_some():  # not https_compatible: it must end with close_notify
            received += data
        assert received.startswith(b"HTTP/1.1 400 ")
        await client.transport_stream.aclose()


async def test_a_handshake_and_then_a_request_have_their_times(autojump_clock: MockClock) -> None:
    times = Config()
    async with door_of() as door:
        client = Client()
        far = door.come(client.said()[:100], secure=True)
        await trio.sleep(times.ssl_handshake_timeout - 0.1)
        late = await door.come_and_shake()
        assert len(door.arrivals) == 2
        await trio.sleep(0.2)
        assert await read(far) == b""
        assert len(door.arrivals) == 1
        await trio.sleep(times.keep_alive_timeout - 0.3)
        assert len(door.arrivals) == 1
        await trio.sleep(0.2)
        assert len(door.arrivals) == 0
        await far.aclose()
        await late.transport_stream.aclose()


@pytest.mark.parametrize("shaken", [True, False])
async def test_closed_all_handshakes_end(shaken: bool) -> None:
    async with door_of() as door:
        if shaken:
            far = (await door.come_and_shake()).transport_stream
        else:
            far = door.come(Client().said()[:100], secure=True)
        door.arrivals.close()
        with contextlib.suppress(trio.BrokenResourceError):  # it was closed with what it had not read
            await read(far)
        assert len(door.arrivals) == 0
        await far.aclose()


async def test_what_is_no_handshake_is_told_so_and_is_no_error() -> None:
    server_hello = b"\x16\x03\x01\0\5" + b"\2\0\0\1\0"
    async with door_of() as door, door.come(server_hello, secure=True) as client:
        assert (await read(client)).startswith(b"\x15\x03")  # an alert (RFC 8446, 6)
        assert (len(door.arrivals), door.errors, door.handed_over) == (0, [], [])


@pytest.mark.parametrize("where", ["wrap_bio", "do_handshake", "admit_now", "open"])
async def test_an_error_with_tls_ends_one_connection_and_is_told(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door_of() as door:

        def fail(*_: Any, **__: Any) -> None:
            raise BrokenError

        with monkeypatch.context() as broken:
            if where in ("wrap_bio", "do_handshake"):
                broken.setattr(Tls, "__init__" if where == "wrap_bio" else "shake", fail)
                far = door.come(Client().said(), secure=True)
            else:
                client = await door.come_and_shake()
                far = client.transport_stream
                broken.setattr(door.service.admission if where == "admit_now" else door.service, where, fail)
                await client.send_all(get("/sse"))
            with contextlib.suppress(trio.BrokenResourceError):  # it was closed with what it had not read
                await read(far)
            await far.aclose()
        assert [type(error) for error in door.errors] == [BrokenError]


async def test_a_client_sends_so_much_and_no_more_before_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_UNASKED", 100)
    async with door_of() as door, door.come(secure=True) as far:
        hello = Client().said()
        await far.send_all(hello[:100])
        await wait_all_tasks_blocked()
        assert len(door.arrivals) == 1
        await far.send_all(hello[100:110])
        await wait_all_tasks_blocked()
        assert len(door.arrivals) == 0


@given(st.binary(max_size=200), st.booleans())
async def test_whatever_comes_in_place_of_a_handshake_it_is_forgotten(said: bytes, early: bool) -> None:
    async with door_of() as door:
        far = door.come(said if early else b"", secure=True)
        if not early and said:
            await far.send_all(said)
        await wait_all_tasks_blocked()
        await far.aclose()
        await wait_all_tasks_blocked()
        assert (len(door.arrivals), door.errors, door.handed_over) == (0, [], [])


@given(st.binary(min_size=1, max_size=200), st.integers(0, 2000))
@hypothesis.settings(max_examples=30)  # each makes a handshake
async def test_whatever_is_changed_on_its_way_somebody_has_it_or_it_is_forgotten(
    noise: bytes, place: int
) -> None:
    async with door_of() as door:
        client, far = Client(), door.come(secure=True)
        with contextlib.suppress(ssl.SSLError, trio.BrokenResourceError):
            for _ in range(2):
                said = client.said(get("/healthz") if client.shaken else b"")
                if place < len(said):
                    said = said[:place] + noise + said[place:]
                place -= len(said)
                await far.send_all(said)
                await wait_all_tasks_blocked()
                with trio.move_on_after(0.01):  # it may wait for more
                    client.shaken = client.shake(bytes(await far.receive_some()))
        await far.aclose()
        await wait_all_tasks_blocked()
        assert len(door.arrivals) == 0
        assert door.errors == []
