"""How much anybody may take: streams, and the time that half a request may last."""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from tests.support.client import Stream, connect, eventually, streaming
from tests.support.each_of import each_of
from tests.support.hostile import GET_HEALTH
from tests.support.process import Answer, Service, Services
from tests.support.valkeys import certificate
from tests.support.variants import COMMANDS, TRIO_SSE, VARIANTS, Variant
from trio_sse.descriptors import RESERVE

pytestmark = pytest.mark.integration

LIMITS: dict[str, Any] = {
    "SSE_MAX_CONNECTIONS": "6",
    "SSE_MAX_CONNECTIONS_PER_USER": "3",
    "SSE_MAX_CONNECTIONS_PER_ADDRESS": "4",
    "SSE_TRUSTED_PROXIES": "127.0.0.0/8,::1",
}
CUT_OFF_SECONDS = 20
"""What is promised is 10 s; the machine may be busy."""


@pytest.fixture(scope="module")
def all_limited(module_services: Services) -> list[Service]:
    return module_services.each(VARIANTS, **LIMITS)


limited = each_of("all_limited", VARIANTS)


@contextlib.asynccontextmanager
async def opened(service: Service, *clients: tuple[str, str]) -> AsyncIterator[list[Stream]]:
    """A stream for each of these users and addresses."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                streaming(service.port, user, headers=[("X-Forwarded-For", address)])
            )
            for user, address in clients
        ]


def one_more(service: Service, user: str, address: str, accept: str = "text/event-stream") -> Answer:
    headers = {"X-Forwarded-For": address, "Accept": accept}
    return service.get(f"/sse?user_id={user}", headers=headers)


def is_told_to_come_back(service: Service, user: str, address: str, setting: str, status: int) -> None:
    """An EventSource by a stream, for it never returns from anything but 200; others by their own means."""
    stream = one_more(service, user, address)
    assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
    assert b"event: overloaded" in stream.body
    assert b"retry: " in stream.body
    assert setting.encode() in stream.body
    refused = one_more(service, user, address, "application/json")
    assert refused.status == status
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert setting in refused.json["detail"]


async def test_a_user_has_so_many_streams(limited: Service) -> None:
    async with opened(limited, ("ann", "192.0.2.1"), ("ann", "192.0.2.2"), ("ann", "192.0.2.3")) as streams:
        is_told_to_come_back(limited, "ann", "192.0.2.4", "SSE_MAX_CONNECTIONS_PER_USER", 429)
        async with opened(limited, ("bob", "192.0.2.4")):
            pass
        streams[0].reset()
        await eventually(lambda: limited.connections == 2, "one has left")
        async with opened(limited, ("ann", "192.0.2.4")):
            limited.publish("ann", message="for those who are here")
            assert (await streams[1].notification())["message"] == "for those who are here"


@pytest.mark.parametrize(
    "addresses",
    [
        ["192.0.2.1"] * 5,
        [f"2001:db8:1:2::{number}" for number in range(1, 6)],
        [f"198.51.100.{number}, 192.0.2.1" for number in range(5)],
    ],
    ids=["IPv4", "one IPv6 network", "with addresses made up"],
)
async def test_an_address_has_so_many_streams(limited: Service, addresses: list[str]) -> None:
    clients = [(f"user{number}", address) for number, address in enumerate(addresses)]
    async with opened(limited, *clients[:4]):
        is_told_to_come_back(limited, *clients[4], "SSE_MAX_CONNECTIONS_PER_ADDRESS", 429)
        async with opened(limited, ("other", "2001:db8:1:3::1")):
            pass


async def test_there_are_so_many_streams_in_all(limited: Service) -> None:
    async with opened(limited, *[(f"user{number}", f"192.0.2.{number}") for number in range(6)]):
        is_told_to_come_back(limited, "other", "192.0.2.7", "SSE_MAX_CONNECTIONS", 503)
        assert limited.get("/healthz").status == limited.get("/").status == 200
        assert limited.connections == 6
    assert limited.get("/readyz").json["totals"]["overloaded"] >= 1


async def test_who_comes_in_a_crowd_is_counted_exactly(limited: Service) -> None:
    """Looking and counting are one step: between them nobody else can come in."""
    answered: list[str] = []

    async def come(number: int, all_here: trio.Event) -> None:
        async with await connect(limited.port) as transport:
            stream = Stream(transport)
            headers = [("X-Forwarded-For", f"192.0.2.{number}"), ("Accept", "text/event-stream")]
            await stream.request(f"/sse?user_id=crowd{number}", headers, "1.1")
            answered.append((await stream.event()).name)
            if len(answered) == 30:
                all_here.set()
            await all_here.wait()

    all_here = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(come, number, all_here)
    assert sorted(answered) == ["connected"] * 6 + ["overloaded"] * 24


async def test_an_address_opens_so_many_a_second(start: Services) -> None:
    for service in start.each((TRIO_SSE, VARIANTS[-1]), SSE_CONNECTION_RATE_PER_ADDRESS="0.01"):
        async with streaming(service.port, "ann"):
            pass
        refused = service.get("/sse", headers={"X-Forwarded-For": "192.0.2.1"})
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 60
        assert b"event: overloaded" in service.get("/sse", headers={"Accept": "text/event-stream"}).body


class Dribbling:
    """A request that is sent a byte at a time, and never complete."""

    def __init__(self, port: int, begun: bytes, *, answered: bytes = b"", tls: bool = False) -> None:
        self._port = port
        self._begun = begun
        self._answered = answered
        self._tls = tls

    async def run(self) -> None:
        """Until the service closes the connection."""
        transport: trio.abc.Stream = await connect(self._port)
        if self._tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            transport = trio.SSLStream(transport, context, https_compatible=True)
        async with transport:
            if self._answered:
                await transport.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                while self._answered not in await transport.receive_some():
                    pass
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dribble, transport)
                with contextlib.suppress(trio.BrokenResourceError):
                    while await transport.receive_some():
                        pass
                nursery.cancel_scope.cancel()

    async def _dribble(self, transport: trio.abc.SendStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await transport.send_all(self._begun)
            while True:
                await trio.sleep(0.5)
                await transport.send_all(b"x")


HEAD = b"GET /sse HTTP/1.1\r\nHost: x\r\nX-Slow: "


@pytest.mark.slow
async def test_the_head_of_a_request_that_never_ends_is_cut_off(
    start: Services, all_limited: list[Service], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    secure = [
        start(TRIO_SSE, ready="/healthz", SSE_TLS_CERT=str(cert), SSE_TLS_KEY=str(key)),
        *[
            start(variant, "--certfile", str(cert), "--keyfile", str(key), ready="/healthz")
            for variant in COMMANDS[1:]
        ],
    ]
    with trio.fail_after(CUT_OFF_SECONDS):
        async with trio.open_nursery() as nursery:
            for service in all_limited:
                for begun in (b"", b"G", HEAD, b"POST /publish HTTP/1.1\r\nX-Slow: "):
                    nursery.start_soon(Dribbling(service.port, begun).run)
                nursery.start_soon(Dribbling(service.port, HEAD, answered=b'"ok"').run)
            for service in secure:
                nursery.start_soon(Dribbling(service.port, HEAD, tls=True).run)
                nursery.start_soon(Dribbling(service.port, HEAD, tls=True, answered=b'"ok"').run)
    for service in all_limited + secure:
        assert service.get("/healthz").status == 200


@pytest.mark.slow
async def test_a_handshake_or_a_body_that_never_ends_is_cut_off(start: Services, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    secure = start(TRIO_SSE, ready="/healthz", SSE_TLS_CERT=str(cert), SSE_TLS_KEY=str(key))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    body = (
        b"POST /publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-number-one\r\n"
        b"Content-Length: 1000\r\nConnection: close\r\n\r\n{"
    )
    with trio.fail_after(2 * CUT_OFF_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Dribbling(secure.port, b"").run)
            nursery.start_soon(Dribbling(secure.port, hello).run)
            for service in start.each(COMMANDS, SSE_PUBLISH_TOKENS="token-number-one"):
                nursery.start_soon(Dribbling(service.port, body).run)


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_open_streams_go_on_while_no_file_is_left(start: Services, variant: Variant) -> None:
    service = start(variant)
    (worker,) = service.workers
    async with streaming(service.port, "before") as stream:
        full = max(int(number) for number in os.listdir(f"/proc/{worker}/fd")) + 3
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (full, hard))
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(full + 5):
                await stack.enter_async_context(await connect(service.port))
            await eventually(lambda: "new connections wait" in service.log, "it says so")
            for n in range(20):
                service.publish("before", n=n)
                assert (await stream.notification())["n"] == n
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (full + 100, hard))
        async with streaming(service.port, "after") as after:
            service.publish("after", n=1)
            assert (await after.notification())["n"] == 1
    assert "LimitNOFILE" in service.log


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_streams_leave_files_for_probes(start: Services, variant: Variant) -> None:
    service = start(variant)
    (worker,) = service.workers

    def files() -> set[int]:
        return set(map(int, os.listdir(f"/proc/{worker}/fd")))

    seen = [set[int]()] * 3

    def settled() -> bool:
        """Whether connections that have ended are gone."""
        seen.append(files())
        return seen[-1] == seen[-2] == seen[-3]

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(streaming(service.port, "ann"))
        await eventually(settled, "other connections have gone")
        before = files()
        reserved = max(before) + 10
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (reserved + RESERVE, hard))
        room = len(set(range(reserved)) - before) - 1  # one is for whoever is refused

        async def alone(opened: int) -> None:
            """Wait until no other connections are there than so many streams more."""
            await eventually(lambda: len(files()) == len(before) + opened, "others have gone")

        for opened in range(room):
            await alone(opened)
            await stack.enter_async_context(streaming(service.port, "ann"))
        is_told_to_come_back(service, "ann", "", "LimitNOFILE", 503)
        assert service.get("/healthz").status == 200
        await alone(room)
        answer = service.get("/readyz")
        assert (answer.status, answer.json["code"]) == (503, "no_descriptors")
    await eventually(lambda: service.answers("/readyz"), "it is ready again")


HALF_OPEN = 10_000


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*COMMANDS, VARIANTS[-1]], ids=str)
async def test_ten_thousand_half_open_connections(start: Services, variant: Variant) -> None:
    service = start(variant)
    before = service.descriptors
    open_now, most = 0, 0

    async def half_open(begun: bytes) -> None:
        nonlocal open_now, most
        async with await connect(service.port) as transport:
            open_now += 1
            most = max(most, open_now)
            with contextlib.suppress(trio.BrokenResourceError):
                await transport.send_all(begun)
                while await transport.receive_some():
                    pass
            open_now -= 1

    async with streaming(service.port, "beside") as stream, trio.open_nursery() as nursery:
        for number in range(HALF_OPEN):
            begun = (b"", b"GET /sse HTTP/1.1\r\nHost: x\r\n", b"POST /x HTTP/1.1\r\nHo")[number % 3]
            nursery.start_soon(partial(half_open, begun))
            if number % 500 == 0:
                await trio.lowlevel.checkpoint()
                service.publish("beside", n=number)
                assert (await stream.notification())["n"] == number
        service.publish("beside", n=HALF_OPEN)
        assert (await stream.notification())["n"] == HALF_OPEN
        async with await connect(service.port) as transport:
            await transport.send_all(GET_HEALTH)
            assert (await transport.receive_some()).startswith(b"HTTP/1.1 200")
        await eventually(lambda: open_now == 0, "all are cut off", seconds=60)
        assert most > 1000
        assert service.connections == 1
        service.publish("beside", n=-1)
        assert (await stream.notification())["n"] == -1
        await eventually(lambda: service.descriptors <= before + 5, "their sockets are closed", seconds=30)
