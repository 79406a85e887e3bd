"""https and HTTP/2: SSE_TLS_CERT with trio-sse, --certfile with Hypercorn's own command."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import h2.exceptions
import httpx
import pytest
import trio

from tests.support.client import Stream, connect, eventually
from tests.support.each_of import each_of
from tests.support.http2 import http2
from tests.support.process import Service, Services
from tests.support.tokens import SECRET, token
from tests.support.valkeys import certificate
from tests.support.variants import COMMANDS, TRIO_SSE, Variant, script

pytestmark = pytest.mark.integration

Pair = tuple[Path, Path]
STREAMS = 20
PUBLISHER = {"Authorization": "Bearer token-number-one"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return certificate(tmp_path_factory.mktemp("certificate"))


def begin(services: Services, variant: Variant, pair: Pair, **settings: Any) -> Service:
    cert, key = map(str, pair)
    if variant.on_hypercorn:
        service = services(variant, "--certfile", cert, "--keyfile", key, ready=None, **settings)
    else:
        service = services(variant, ready=None, SSE_TLS_CERT=cert, SSE_TLS_KEY=key, **settings)
    return service


@pytest.fixture(scope="module")
def all_secure(module_services: Services, pair: Pair) -> list[Service]:
    values = {
        "SSE_PUBLISH_TOKENS": "token-number-one",
        "SSE_AUTH": "jwt",
        "SSE_JWT_SECRET": SECRET,
        "SSE_JWT_COOKIE": "tok",
        "SSE_MAX_CONNECTIONS_PER_USER": str(STREAMS),
    }
    started = [begin(module_services, variant, pair, **values) for variant in COMMANDS]
    return [service.wait_until_answers() for service in started]


secure = each_of("all_secure", COMMANDS)


def cookie(user: str) -> list[tuple[str, str]]:
    return [("cookie", f"tok={token(sub=user)}")]


async def test_twenty_streams_of_one_browser_come_over_one_connection(secure: Service, pair: Pair) -> None:
    async with http2(secure.port, str(pair[0])) as client:
        streams = [await client.get("/sse", cookie("ann")) for _ in range(STREAMS)]
        for stream in streams:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert "connection" not in stream.headers
            assert (await stream.event()).name == "connected"
        assert secure.connections == STREAMS
        for n in range(5):
            secure.publish("ann", n=n)
            for stream in streams:
                assert (await stream.event()).json["n"] == n
        one_more = await client.get("/sse", [*cookie("ann"), ("accept", "text/event-stream")])
        assert (await one_more.event()).name == "overloaded"
        await client.until(lambda: one_more.ended)

        for stream in streams[::2]:
            await stream.reset()
        await eventually(lambda: secure.connections == STREAMS // 2, "those that were reset have left")
        secure.publish("ann", n=5)
        for stream in streams[1::2]:
            assert (await stream.event()).json["n"] == 5
    await eventually(lambda: secure.connections == 0, "with the connection all have left")


async def test_requests_and_refusals_come_beside_streams(secure: Service, pair: Pair) -> None:
    async with http2(secure.port, str(pair[0])) as client:
        stream = await client.get("/sse", cookie("ann"))
        await stream.event()
        for path, headers, status in (
            ("/healthz", [], 200),
            ("/", [], 200),
            ("/nothing", [], 404),
            ("/sse", [], 401),
            ("/sse?user_id=bob", cookie("ann"), 403),
            ("/sse?user_id=*", cookie("ann"), 400),
        ):
            answer = await client.get(path, headers)
            await client.until(lambda answer=answer: answer.ended)  # type: ignore[misc]
            assert answer.status == status
            if status in (401, 403):
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert json.loads(answer.body)["status"] == status
        secure.publish("ann", n=1)
        assert (await stream.event()).json["n"] == 1


def test_another_client_of_http2_publishes_and_reads(secure: Service, pair: Pair) -> None:
    context = ssl.create_default_context(cafile=str(pair[0]))
    reader = {"Authorization": f"Bearer {token(sub='ann')}"}
    with (
        httpx.Client(http2=True, verify=context, timeout=20) as http,
        http.stream("GET", f"{secure.url}/sse", headers=reader) as stream,
    ):
        assert stream.http_version == "HTTP/2"
        lines = stream.iter_lines()
        while next(lines) != "event: connected":
            pass
        message = {"user_id": "ann", "n": 7}
        answer = http.post(f"{secure.url}/publish", json=message, headers=PUBLISHER)
        assert answer.http_version == "HTTP/2"
        assert answer.json()["messages"][0]["connections"] == {"took": 1, "buffered": 0, "dropped": 0}
        while '"n":7' not in next(lines):
            pass


async def test_http1_over_tls(secure: Service) -> None:
    assert secure.tls is not None
    sock = await connect(secure.port)
    transport = trio.SSLStream(sock, secure.tls, server_hostname="127.0.0.1", https_compatible=True)
    async with transport:
        stream = Stream(transport)  # type: ignore[arg-type]
        await stream.request("/sse", [("Authorization", f"Bearer {token(sub='ann')}")], "1.1")
        assert stream.status == 200
        assert (await stream.event()).name == "connected"
        secure.publish("ann", n=1)
        assert (await stream.notification())["n"] == 1
    await eventually(lambda: secure.connections == 0, "it has left")


def test_what_speaks_no_tls_disturbs_nobody(all_secure: list[Service]) -> None:
    for service in all_secure:
        for said in (b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 1000, b""):
            with socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock:
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    while sock.recv(65536):
                        pass
        assert service.get("/healthz").status == 200


def test_old_versions_of_tls_are_refused(all_secure: list[Service], pair: Pair) -> None:
    for service in all_secure:
        context = ssl.create_default_context(cafile=str(pair[0]))
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLS"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=20) as sock,
            pytest.raises(OSError),
        ):
            context.wrap_socket(sock, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    ("variant", "reading"),
    [
        *[pytest.param(variant, True, id=str(variant)) for variant in COMMANDS],
        pytest.param(TRIO_SSE, False, id="not-reading"),
    ],
)
async def test_it_stops_in_time_with_streams_open(
    start: Services, pair: Pair, variant: Variant, reading: bool
) -> None:
    """Also with a client that gives it no room to write: HTTP/2 has windows of its own."""
    service = begin(start, variant, pair)
    await trio.to_thread.run_sync(service.wait_until_answers)
    async with http2(service.port, str(pair[0]), reading=reading) as client:
        streams = [await client.get(f"/sse?user_id={number}") for number in range(5)]
        for stream in streams:
            await stream.event()
        if not reading:
            for n in range(40):
                service.publish(["0", "1", "2", "3", "4"], n=n, padding="x" * 10_000)
        stopped = await trio.to_thread.run_sync(service.stop)
        assert stopped.code == 0
        assert stopped.seconds < 5
        if reading:
            for stream in streams:
                assert [event.name for event in stream.events] in ([], ["draining"])


async def test_streams_asked_for_and_reset_over_and_over_end_their_connection(
    all_secure: list[Service], pair: Pair
) -> None:
    """HTTP/2 rapid reset, CVE-2023-44487: bounded by `http2_bounds.Waste`."""
    for service in all_secure[:2]:
        async with http2(service.port, str(pair[0])) as beside, http2(service.port, str(pair[0])) as client:
            stream = await beside.get("/sse", cookie("ann"))
            await stream.event()
            with contextlib.suppress(h2.exceptions.ProtocolError, trio.BrokenResourceError):
                for _ in range(100):
                    await client.get_and_reset("/sse", cookie("bob"), times=50)
            await eventually(lambda: client.closed, "the connection is ended")
            await eventually(lambda: service.connections == 1, "nothing is left of it")  # noqa: B023
            service.publish("ann", n=1)
            assert (await stream.event()).json["n"] == 1


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_client_that_gives_no_room_is_cut_off_and_finds_its_end_when_it_reads_again(
    start: Services, pair: Pair, variant: Variant
) -> None:
    """The other streams of its connection go on."""
    service = begin(start, variant, pair, SSE_WRITE_TIMEOUT_SECONDS="1")
    await trio.to_thread.run_sync(service.wait_until_answers)
    async with http2(service.port, str(pair[0]), reading=False) as client:
        deaf = await client.get("/sse?user_id=ann")
        await deaf.event()
        client.http.increment_flow_control_window(1_000_000)  # for the connection, so that others have room
        await client.flush()
        other = await client.get("/sse?user_id=bob")
        await other.event()
        for n in range(40):
            service.publish("ann", n=n, padding="x" * 10_000)
            # One by one: what is read from Redis together is written together, however much it is.
            service.publish("bob", n=n)
            assert (await other.event()).json["n"] == n
        await eventually(lambda: service.connections == 1, "it is cut off", seconds=15)
        service.publish("bob", n=40)
        assert (await other.event()).json["n"] == 40
        assert not deaf.ended
        client.http.increment_flow_control_window(1_000_000, deaf.number)
        await client.flush()
        await client.until(lambda: deaf.ended)
        told = [event.json["n"] for event in deaf.events if event.name == "message"]
        until_gap = list(itertools.takewhile(lambda event: event.name == "message", deaf.events))
        assert told[: len(until_gap)] == list(range(len(until_gap)))
        assert 5 < len(told) < 40
        assert told == sorted(set(told))


async def test_check_finds_the_service_behind_its_certificate(start: Services, pair: Pair) -> None:
    service = begin(start, TRIO_SSE, pair)
    await trio.to_thread.run_sync(service.wait_until_answers)
    checked = await trio.run_process(
        [script("trio-sse"), "check"], capture_stdout=True, check=False, env=service.environment
    )
    assert b"a trio_sse is running there and says: ready" in checked.stdout
