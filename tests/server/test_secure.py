"""Streams over TLS on their own sockets."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from unittest import mock

import hypothesis
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.fleets import BIG, LIMITED, files, left_behind
from tests.support.inside import events, fleet_of, flush_now, note, read, settings, stream_pair, until
from tests.support.secure import VERSIONS, Client, client_context, heard, server_context, shaken
from trio_sse.access.admission import Accepted
from trio_sse.delivery import sse
from trio_sse.delivery.resume import Start
from trio_sse.server.fleet import MAX_IGNORED, Fleet, Opening
from trio_sse.server.secure import SecureStream
from trio_sse.server.tls import Tls
from trio_sse.service import Service

versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


@pytest.fixture
def service() -> Service:
    return Service(settings(**LIMITED))


def open_stream(
    fleet: Fleet, tls: Tls, near: trio.SocketStream, last_id: str | None = None, *, chunked: bool = True
) -> None:
    opening = Opening(Accepted("ann", Start(last_id), ()), b"HEAD\r\n\r\n", chunked=chunked)
    fleet.open(near.socket.detach(), opening, partial(SecureStream, tls))


@asynccontextmanager
async def opened(
    service: Service, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, chunked: bool = True
) -> AsyncIterator[tuple[Fleet, Client, trio.SocketStream]]:
    """A stream of ann's that has said `connected`."""
    client = Client(client_context(version))
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        open_stream(fleet, shaken(client), near, chunked=chunked)
        body = await heard(client, far, b"}\n\n")
        assert body.startswith(b"HEAD\r\n\r\n")
        assert b"event: connected" in body
        yield fleet, client, far


def say(service: Service, data: bytes) -> None:
    service.hub.dispatch(note("ann", data=data))
    flush_now(service.hub)


@versions
@pytest.mark.parametrize("chunked", [True, False])
async def test_it_says_what_is_published_and_its_end(
    service: Service, version: ssl.TLSVersion, chunked: bool
) -> None:
    async with opened(service, version, chunked=chunked) as (fleet, client, far):
        say(service, b"hello")
        assert b"data: hello\n\n" in await heard(client, far, b"hello\n\n")
        service.hub.close()
        assert len(fleet) == 0
        rest = await heard(client, far)
        assert rest.endswith(sse.LAST_CHUNK) is chunked
        assert client.ended


@versions
@pytest.mark.parametrize(
    "how", ["eof", "close_notify", "reset", "garbage", "too much", "cancel", "hub", "cut"]
)
@pytest.mark.parametrize("busy", [False, True])
async def test_however_it_ends_nothing_is_left_of_it(
    service: Service, how: str, busy: bool, version: ssl.TLSVersion
) -> None:
    before = files()
    async with opened(service, version) as (fleet, client, far):
        if busy:
            say(service, BIG)
            assert len(fleet.nursery.child_tasks) == 1
        if how == "eof":
            await far.send_eof()
        elif how == "close_notify":
            await far.send_all(client.left())
        elif how == "reset":
            await far.aclose()
        elif how == "garbage":
            await far.send_all(b"GET /sse HTTP/1.1\r\n\r\n")
        elif how == "too much":
            await far.send_all(client.said(b"x" * MAX_IGNORED))
        elif how == "cancel":
            fleet.nursery.cancel_scope.cancel()
        elif how == "hub":
            service.hub.close()
            if busy:
                await heard(client, far)
                assert client.ended
        else:
            fleet.close()
        with trio.fail_after(5):
            await fleet.all_left.wait()
        if how == "close_notify":
            await heard(client, far)  # what comes can be decrypted, however it ends
            assert client.ended is not busy
    assert left_behind(service) == []
    assert files() == before


async def test_whoever_says_something_and_that_it_leaves_is_seen_at_once(service: Service) -> None:
    """Also with a record half written, and with room for more by now."""
    async with opened(service) as (fleet, client, far):
        say(service, BIG)
        (connection,) = service.hub.connections
        stream = connection._outlet
        assert isinstance(stream, SecureStream)
        begun = os.read(far.socket.fileno(), 1 << 20)
        await far.send_all(client.said(b"x") + client.left())
        with trio.testing.assert_no_checkpoints():
            stream.readable()
        assert len(fleet) == 0
        client.heard(begun + await read(far))
        assert not client.ended


async def test_nothing_refers_to_it_when_it_has_ended(service: Service) -> None:
    gc.collect()
    gc.disable()
    try:
        async with opened(service) as (fleet, client, far):
            say(service, BIG)
            await far.send_all(client.left())
            await fleet.all_left.wait()
            await wait_all_tasks_blocked()
            left = [held for held in gc.get_objects() if isinstance(held, SecureStream)]
            assert left == []
    finally:
        gc.enable()


async def test_while_it_is_idle_it_has_no_task_and_no_channel(service: Service) -> None:
    async with opened(service) as (fleet, client, far):
        (connection,) = service.hub.connections
        assert (fleet.nursery.child_tasks, connection._channel) == (frozenset(), None)
        say(service, BIG)
        say(service, b"waits")
        assert len(fleet.nursery.child_tasks) == 1
        received = await heard(client, far, b"data: waits\n\n")
        assert received.count(b"x") == len(BIG)
        await wait_all_tasks_blocked()
        assert (fleet.nursery.child_tasks, connection._channel) == (frozenset(), None)


async def test_what_a_client_sends_after_its_request_is_ignored_up_to_a_bound(service: Service) -> None:
    async with opened(service) as (fleet, client, far):
        await far.send_all(client.said(b"x" * 1000))
        await wait_all_tasks_blocked()
        assert len(fleet) == 1
        record = client.said(b"x" * 1000)
        await far.send_all(record[:-1])
        await wait_all_tasks_blocked()
        say(service, b"between")
        assert b"between" in await heard(client, far, b"between")
        await far.send_all(record[-1:])
        for _ in range(MAX_IGNORED // 1000 - 3):
            await far.send_all(client.said(b"x" * 1000))
            await wait_all_tasks_blocked()
        assert len(fleet) == 1
        await far.send_all(client.said(b"x" * 2000))
        await until(lambda: len(fleet) == 0)


@pytest.mark.parametrize("state", ["live", "catching up", "waits for the log"])
async def test_cancelled_at_any_step_nothing_is_left(state: str) -> None:
    for steps in range(8):
        values = {"redis_stream": "notes"} if state == "waits for the log" else {}
        service = Service(settings(**LIMITED, **values))
        for _ in range(5):
            service.hub.dispatch(note("ann", data=BIG))
        last_id = {"live": None, "catching up": f"{service.history.sources.process}.0"}.get(state, "5-0")
        async with stream_pair() as (near, _far), fleet_of(service) as fleet:
            open_stream(fleet, shaken(Client()), near, last_id)
            say(service, BIG)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            fleet.nursery.cancel_scope.cancel()
        assert len(fleet) == 0
        assert left_behind(service) == []


async def test_a_replay_arrives_whole(service: Service) -> None:
    for number in range(20):
        service.hub.dispatch(note("ann", data=b"%d" % number + b" " * 20_000))
    client = Client()
    async with stream_pair() as (near, far), fleet_of(service) as fleet:
        open_stream(fleet, shaken(client), near, f"{service.history.sources.process}.0", chunked=False)
        received = await heard(client, far, b"data: 19 ")
        told = [event.data.strip() for event in events(received[8:]) if event.event == "message"]
        assert told[:19] == [str(number) for number in range(19)]


# A socket that takes whatever number of bytes it likes, and what happens meanwhile.
APPETITE = st.lists(st.integers(0, 6000), max_size=60)
STEPS = st.lists(
    st.one_of(st.integers(1, 9000), st.sampled_from(["turn", "said", "tickets"])), min_size=1, max_size=30
)


@versions
@hypothesis.settings(max_examples=30)  # each makes a handshake
@given(APPETITE, STEPS)
async def test_whatever_the_socket_takes_the_client_can_decrypt_it(
    version: ssl.TLSVersion, appetite: list[int], steps: list[int | str]
) -> None:
    client = Client(client_context(version))
    service = Service(settings(buffer=100))
    received = bytearray()
    near, far = socket.socketpair()
    near.setblocking(False)
    fd = near.detach()
    really_write = os.write

    def write(to: int, data: bytes) -> int:
        if to != fd:
            return really_write(to, data)
        room = appetite.pop() if appetite else len(data)
        if not room and data:
            raise BlockingIOError
        received.extend(client.heard(bytes(data[:room])))
        return min(room, len(data))

    published = []
    with (
        far,
        mock.patch("trio_sse.delivery.outlet.os.write", write),
        mock.patch("trio_sse.delivery.outlet._write_last", write),
    ):
        async with fleet_of(service) as fleet:
            opening = Opening(Accepted("ann", Start(), ()), b"HEAD\r\n\r\n", chunked=False)
            fleet.open(fd, opening, partial(SecureStream, shaken(client)))
            for step in steps:
                if step == "turn":
                    await trio.lowlevel.checkpoint()
                elif step == "said":
                    far.send(client.said(b"x"))
                elif isinstance(step, int):
                    published.append(b"%d" % step + b" " * step)
                    say(service, published[-1])
            appetite.clear()
            await wait_all_tasks_blocked()
            service.hub.close()
            assert len(fleet) == 0
    assert client.ended
    told = [event.data for event in events(bytes(received[8:])) if event.event == "message"]
    assert told == [data.decode() for data in published]


@pytest.mark.parametrize("command", ["k", "K"], ids=["told", "asked for"])
async def test_keys_may_be_renewed(service: Service, command: str) -> None:
    """KeyUpdate (RFC 8446, 4.6.3), with an openssl as the client: Python's ssl cannot ask for one."""
    listener = trio.socket.socket()
    with listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-msg"]
        async with fleet_of(service) as fleet, trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                connect,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            client: trio.Process = await nursery.start(run)
            assert client.stdin is not None
            assert client.stdout is not None
            near, _ = await listener.accept()
            tls = Tls(server_context())
            with trio.fail_after(10):
                while not tls.shake():
                    await trio.SocketStream(near).send_all(tls.take_outgoing())
                    tls.feed(bytes(await trio.SocketStream(near).receive_some()))
                open_stream(fleet, tls, trio.SocketStream(near))
                printed = b""
                for number in range(3):
                    await client.stdin.send_all(command.encode() + b"\n")
                    while printed.count(b"KEYUPDATE") == number:
                        printed += await client.stdout.receive_some()
                    await trio.sleep(0.05)  # until it has come: nothing shows it
                    say(service, b"after %d" % number)
                    while b"after %d" % number not in printed:
                        printed += await client.stdout.receive_some()
                answers = printed.count(b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate")
                assert answers == (3 if command == "K" else 0)
                await client.stdin.send_all(b"Q\n")
                await fleet.all_left.wait()
    assert left_behind(service) == []
