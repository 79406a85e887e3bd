"""The measuring streams of `/doctor`: what they say, and that nobody gets more of them than of others."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from quart.testing.client import QuartClient
from trio.testing import MockClock

from tests.support.inside import client_of, events, requested, settings
from trio_sse.access.admission import Accepted
from trio_sse.access.cors import GUARDS
from trio_sse.service import Service
from trio_sse.settings import UNIX
from trio_sse.web.doctor import MOST_SECONDS, MOST_STREAMS, run_seconds


def service_of(**values: Any) -> Service:
    return Service(settings(doctor=True, **values))


@pytest.fixture
def service() -> Service:
    return service_of()


async def measured(client: QuartClient, query: str = "", **headers: str) -> list[Any]:
    """The frames of one measurement: their names, and what they say."""
    response = await client.get(f"/sse/doctor?{query}", headers=headers)
    assert response.status_code == 200
    found = events(await response.get_data(as_text=False))
    return [(event.event, json.loads(event.data)) for event in found]


async def test_there_is_none_unless_asked_for() -> None:
    client = client_of(Service(settings()))
    for path in ("/doctor", "/sse/doctor"):
        assert (await client.get(path)).status_code == 404


async def test_the_page_is_told_of_the_service() -> None:
    client = client_of(service_of(heartbeat_seconds=12.5, root_path="/notify"))
    response = await client.get("/doctor")
    html = await response.get_data()
    for meta in (
        b'"root-path" content="/notify"',
        b'"heartbeat" content="12.5"',
        b'"seconds" content="30.0"',
    ):
        assert b"<meta name=" + meta in html
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("trio_sse_doctor=1; ")
    assert "Path=/notify;" in cookie
    assert "HttpOnly" in cookie


async def test_a_steady_one_has_a_frame_every_half_second(
    service: Service, autojump_clock: MockClock
) -> None:
    began, before = trio.current_time(), time.time()
    async with requested(service, "/sse/doctor", b"kind=steady") as request:
        while not request.ended:
            await trio.sleep(0.5)
    assert 65 <= trio.current_time() - began <= 66
    assert "content-length" not in request.headers
    frames = events(request.body)
    assert [event.event for event in frames] == ["begin", *["tick"] * 129, "end"]
    assert all(before - 1 < json.loads(event.data)["t"] / 1000 < time.time() + 1 for event in frames)


async def test_a_quiet_one_has_only_a_first_and_a_last_frame(
    client: QuartClient, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    (first, begin), (last, _) = await measured(client, "kind=quiet")
    assert (first, last) == ("begin", "end")
    assert begin["seconds"] == trio.current_time() - began == 65


@pytest.mark.parametrize(
    ("heartbeat", "seconds"), [(1.0, 10.0), (30.0, 65.0), (62.5, MOST_SECONDS), (3600.0, MOST_SECONDS)]
)
def test_it_takes_two_heartbeats_but_has_an_end(heartbeat: float, seconds: float) -> None:
    assert run_seconds(settings(heartbeat_seconds=heartbeat)) == seconds


async def test_it_says_what_arrived(autojump_clock: MockClock) -> None:
    client = client_of(service_of(trusted_proxies="127.0.0.0/8", heartbeat_seconds=2.0))
    client.set_cookie("localhost", "trio_sse_doctor", "1")
    headers = {"Last-Event-ID": "doctor", "X-Forwarded-For": "192.0.2.7", "Host": "example.com:81"}
    (_, begin), *_ = await measured(client, "kind=quiet", **headers)
    del begin["t"]
    assert begin.pop("sent")["access-control-allow-origin"] == "*"
    assert begin.pop("http") == "1.1"
    assert begin == {
        "seconds": 10.0,
        "heartbeat": 2.0,
        "host": "example.com:81",
        "address": begin["address"],
        "peer": begin["peer"],
        "forwarded": begin["forwarded"],
        "cookie": begin["cookie"],
        "last_event_id": True,
        "cookie_setting": False,
        "cors": {"asked": "", "allowed": False, "credentials": False},
    }


ORIGIN = "https://app.example.com"


@pytest.mark.parametrize(
    ("origins", "allowed", "credentials"),
    [("*", True, False), (ORIGIN, True, True), ("https://other.example.com", False, False)],
)
async def test_it_says_whether_pages_of_an_origin_may_read(
    origins: str, allowed: bool, credentials: bool, autojump_clock: MockClock
) -> None:
    client = client_of(service_of(cors_origins=origins))
    (_, begin), *_ = await measured(client, f"kind=quiet&origin={ORIGIN}")
    assert begin["cors"] == {"asked": ORIGIN, "allowed": allowed, "credentials": credentials}


async def test_its_header_fields_are_those_of_a_stream(
    service: Service, client: QuartClient, autojump_clock: MockClock
) -> None:
    """What a proxy does depends on them."""
    response = await client.get("/sse/doctor?kind=quiet")
    answer = await service.admission.admit(b"", [], lambda: "127.0.0.1")
    assert isinstance(answer, Accepted)
    for name, value in answer.headers:
        assert response.headers[name] == value
    (_, begin), *_ = [
        (event.event, json.loads(event.data)) for event in events(await response.get_data(as_text=False))
    ]
    assert begin["sent"] == dict(answer.headers)
    assert set(dict(GUARDS)) < set(begin["sent"])


@asynccontextmanager
async def running(client: QuartClient, count: int) -> AsyncIterator[None]:
    """So many measurements that have begun."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(measured, client, "kind=quiet")
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_there_are_only_some_at_a_time(client: QuartClient, mock_clock: MockClock) -> None:
    async with running(client, MOST_STREAMS):
        refused = await client.get("/sse/doctor")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    async with running(client, 1):
        pass


@pytest.mark.parametrize(
    ("limits", "status"), [({"max_connections": 1}, 503), ({"max_connections_per_address": 1}, 429)]
)
async def test_they_count_in_the_limits_of_streams(
    limits: dict[str, int], status: int, mock_clock: MockClock
) -> None:
    service = service_of(**limits)
    client = client_of(service)
    async with running(client, 1):
        assert len(service.admission.limits) == 1
        refused = await client.get("/sse/doctor")
        assert refused.status_code == status
        assert "SSE_MAX_CONNECTIONS" in (await refused.get_json())["detail"]
        stream = await service.admission.admit(b"", [], lambda: UNIX)
        assert not isinstance(stream, Accepted)
    assert len(service.admission.limits) == 0


async def test_they_end_when_the_service_stops(
    service: Service, client: QuartClient, autojump_clock: MockClock
) -> None:
    frames: list[Any] = []

    async def measure() -> None:
        frames.extend(await measured(client, "kind=quiet"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure)
        await trio.sleep(3)
        service.hub.draining = True
        before = trio.current_time()
    assert trio.current_time() - before < 1
    assert [name for name, _ in frames] == ["begin"]
    assert (await client.get("/sse/doctor")).status_code == 503


async def test_other_kinds_are_refused(client: QuartClient) -> None:
    assert (await client.get("/sse/doctor?kind=loud")).status_code == 400


async def test_a_head_takes_no_place(service: Service, client: QuartClient) -> None:
    response = await client.head("/sse/doctor")
    assert response.status_code == 200
    assert response.content_type.startswith("text/event-stream")
    assert len(service.admission.limits) == 0
