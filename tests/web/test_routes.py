"""What Quart answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from quart.testing.client import QuartClient
from trio.testing import MockClock

from tests.support.inside import (
    AsgiRequest,
    asgi,
    client_of,
    flush_now,
    http_scope,
    note,
    requested,
    settings,
)
from tests.support.inside import events as parsed
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.notices import farewell
from trio_sse.service import Service
from trio_sse.web.app import App


@pytest.fixture
def service() -> Service:
    return Service(settings())


async def problem(response: Any) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    assert response.headers["access-control-allow-origin"] == "*"
    document: dict[str, Any] = json.loads(await response.get_data())
    assert document["status"] == response.status_code
    return document


async def test_the_page_may_load_nothing_but_itself(client: QuartClient) -> None:
    response = await client.get("/")
    assert response.status_code == 200
    assert response.content_type == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert b"EventSource" in await response.get_data()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/sse", 405)])
async def test_what_is_not_there_is_a_problem_document(
    client: QuartClient, method: str, path: str, status: int
) -> None:
    response = await client.open(path, method=method)
    assert response.status_code == status
    assert (await problem(response))["detail"]


async def test_a_wrong_method_is_told_the_right_ones(client: QuartClient) -> None:
    response = await client.post("/sse")
    assert {"GET", "HEAD", "OPTIONS"} <= set(response.headers["allow"].split(", "))


async def test_a_refused_stream_is_a_problem_document(client: QuartClient, service: Service) -> None:
    response = await client.get("/sse?user_id=*")
    assert response.status_code == 400
    assert "everybody" in (await problem(response))["detail"]
    assert len(service.hub) == 0


async def test_an_error_of_the_service_is_a_problem_document_that_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(service, "not_ready", lambda: [][len("secret")])
    app = App(service)
    app.logger.disabled = True
    response = await app.test_client().get("/readyz")
    assert response.status_code == 500
    assert "secret" not in json.dumps(await problem(response))


async def test_head_of_a_stream_has_its_headers_and_opens_none(service: Service) -> None:
    request = AsgiRequest()
    await asgi(service)(http_scope("/sse", method="HEAD"), request.receive, request.send)
    assert (request.status, request.body) == (200, b"")
    assert request.headers["content-type"] == "text/event-stream"
    assert "content-length" not in request.headers
    assert service.counters.streams == 0


async def test_a_preflight_is_told_what_a_page_may_send(client: QuartClient) -> None:
    response = await client.options("/sse", headers={"Origin": "https://a.example"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    assert "GET" in response.headers["access-control-allow-methods"]
    assert "Last-Event-ID" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-max-age"] == "86400"


async def test_a_preflight_allows_what_the_settings_add() -> None:
    client = client_of(Service(settings(cors_headers="X-Requested-With, traceparent")))
    response = await client.options("/sse", headers={"Origin": "https://a.example"})
    allowed = response.headers["access-control-allow-headers"].split(", ")
    assert {"Authorization", "X-Requested-With", "traceparent"} <= set(allowed)


@pytest.mark.parametrize("path", ["/", "/sse?user_id=*", "/nothing", "/healthz", "/readyz"])
async def test_no_answer_is_taken_for_what_it_is_not_or_put_in_a_frame(
    client: QuartClient, path: str
) -> None:
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    # The test page asks /readyz without CORS: is the service down, or does it refuse this origin?
    embeddable = path in ("/healthz", "/readyz")
    assert headers["cross-origin-resource-policy"] == ("cross-origin" if embeddable else "same-origin")
    if path == "/":
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/sse", "/healthz", "/readyz", "/nothing"])
async def test_a_request_for_another_host_is_refused_whatever_it_asks_for(path: str) -> None:
    client = client_of(Service(settings(allowed_hosts="sse.example")))
    response = await client.get(path, headers={"Host": "evil.example"})
    assert response.status_code == 421
    assert "SSE_ALLOWED_HOSTS" in (await problem(response))["detail"]
    if path != "/sse":
        response = await client.get(path, headers={"Host": "sse.example:8085"})
        assert response.status_code in (200, 404, 503)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/nothing"])
async def test_listed_origins_may_read_every_answer(path: str) -> None:
    client = client_of(Service(settings(cors_origins=("https://a.example",))))
    listed = await client.get(path, headers={"Origin": "https://a.example"})
    other = await client.get(path, headers={"Origin": "https://b.example"})
    assert listed.headers["access-control-allow-origin"] == "https://a.example"
    assert listed.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"] == "Origin"


async def test_a_stream_says_connected_first_and_then_what_is_published(service: Service) -> None:
    async with requested(service, query=b"user_id=ann") as stream:
        await stream.until(lambda request: b"\n\n" in request.body)
        (hello,) = parsed(stream.body)
        service.hub.dispatch(note("ann", data=b"hello"))
        service.hub.dispatch(note("bob", data=b"secret"))
        flush_now(service.hub)
        await stream.until(lambda request: b"hello" in request.body)
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store, no-transform"
    assert stream.headers["x-accel-buffering"] == "no"
    assert "content-length" not in stream.headers
    assert hello.event == "connected"
    assert hello.json()["user_id"] == "ann"
    assert 2000 <= (hello.retry or 0) <= 5000
    assert hello.id == f"{service.history.sources.process}.0"
    assert [event.data for event in parsed(stream.body)[1:]] == ["hello"]


async def test_a_stream_that_resumes_is_told_that_its_position_is_not_known(service: Service) -> None:
    async with requested(service, headers=[(b"last-event-id", b"1-1")]) as stream:
        await stream.until(lambda request: b"gap" in request.body)
    _, gap = parsed(stream.body)
    assert gap.json() == {"reason": "unknown_id", "dropped": None}


async def test_with_http2_a_client_has_the_write_timeout_for_all_that_is_left_when_its_stream_ends(
    service: Service, autojump_clock: MockClock
) -> None:
    """Each part within the time-out by itself: after the end that is for all of them."""
    sent: list[tuple[float, bytes]] = []

    class Slow(AsgiRequest):
        async def send(self, message: Any) -> None:
            await trio.sleep(15)
            sent.append((trio.current_time(), message.get("body", b"")))
            await super().send(message)

    for _ in range(10):
        service.hub.dispatch(note("ann", data=b" " * PAGE_BYTES))
    request = Slow()
    scope = http_scope("/sse", b"user_id=ann&last_event_id=%b.0" % service.history.sources.process.encode())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asgi(service), {**scope, "http_version": "2"}, request.receive, request.send)
        await trio.sleep(50)
        (connection,) = service.hub.connections
        ended = trio.current_time()
        connection.end(farewell("draining", 1))
        await trio.sleep(60)
        assert not service.hub.connections
        request.leave()
    assert max(time for time, data in sent if data) <= ended + 20
