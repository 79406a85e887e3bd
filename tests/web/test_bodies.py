"""Of a request's body no more is kept than it has a use for."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from werkzeug.exceptions import RequestEntityTooLarge

from tests.support.inside import AsgiRequest, asgi, http_scope, settings
from trio_sse.service import Service
from trio_sse.web.bodies import MAX_BODY, Body

TOKEN = [(b"authorization", b"Bearer one")]


class Uploading(AsgiRequest):
    """A request whose body comes piece by piece, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces, self._received = trio.open_memory_channel[dict[str, Any]](100)

    async def receive(self) -> dict[str, Any]:
        return await self._received.receive()

    def upload(self, size: int, *, more: bool = True) -> None:
        self.pieces.send_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})

    def leave(self) -> None:
        self.pieces.send_nowait({"type": "http.disconnect"})


@pytest.fixture
def service() -> Service:
    return Service(settings(publish_tokens="one", redis_port=1, redis_host="127.0.0.1"))


@pytest.fixture
def bodies(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Body]:
    """All that the service made."""
    made: list[Body] = []
    begin = Body.__init__

    def noted(body: Body, *bounds: int | None) -> None:
        begin(body, *bounds)
        made.append(body)

    monkeypatch.setattr(Body, "__init__", noted)
    return made


def kept(bodies: list[Body]) -> int:
    return sum(len(body._data) for body in bodies)


async def start(nursery: trio.Nursery, service: Any, *scope: Any, **more: Any) -> Uploading:
    request = Uploading()
    nursery.start_soon(asgi(service), http_scope(*scope, **more), request.receive, request.send)
    await wait_all_tasks_blocked()
    return request


async def test_a_stream_keeps_nothing_of_the_body_it_came_with(
    service: Service, bodies: list[Body], nursery: trio.Nursery
) -> None:
    early = Uploading()
    early.upload(30_000)
    nursery.start_soon(asgi(service), http_scope("/sse"), early.receive, early.send)
    late = await start(nursery, service, "/sse")
    for request in (early, late):
        await request.until(lambda request: b"connected" in request.body)
        request.upload(20_000)
    await wait_all_tasks_blocked()
    assert kept(bodies) == 0
    assert len(service.hub) == 2
    for request in (early, late):
        request.upload(1, more=False)
    await wait_all_tasks_blocked()
    assert len(service.hub) == 2, "a body of a size that is accepted does no harm"
    for request in (early, late):
        request.leave()


async def test_a_stream_whose_body_does_not_end_ends(
    service: Service, bodies: list[Body], nursery: trio.Nursery
) -> None:
    request = await start(nursery, service, "/sse")
    await request.until(lambda request: b"connected" in request.body)
    request.upload(MAX_BODY)
    await wait_all_tasks_blocked()
    assert len(service.hub) == 1
    request.upload(1)
    await request.until(lambda request: request.ended)
    assert (kept(bodies), len(service.hub)) == (0, 0)


@pytest.mark.parametrize("path", ["/sse", "/healthz", "/readyz", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_body_that_is_announced_too_long_is_refused(service: Service, path: str, method: str) -> None:
    for size, refused in ((MAX_BODY, False), (MAX_BODY + 1, True)):
        async with trio.open_nursery() as nursery:
            length = [(b"content-length", str(size).encode())]
            request = await start(nursery, service, path, method=method, headers=length)
            await request.until(lambda request: request.status > 0)
            assert (request.status == 413) is refused
            assert len(service.hub) == (path == "/sse" and method == "GET" and not refused)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/publish", "POST", [], 401),
        ("/publish", "PUT", TOKEN, 405),
        ("/sse", "POST", TOKEN, 405),
        ("/nope", "POST", TOKEN, 404),
        ("/healthz", "GET", [], 200),
    ],
)
async def test_nobody_else_has_room_for_a_body(
    service: Service, bodies: list[Body], path: str, method: str, headers: Any, status: int
) -> None:
    async with trio.open_nursery() as nursery:
        request = Uploading()
        request.upload(MAX_BODY)
        request.upload(1_000_000)
        call = asgi(service)
        nursery.start_soon(
            call, http_scope(path, method=method, headers=headers), request.receive, request.send
        )
        await request.until(lambda request: request.status > 0)
        assert request.status in (status, 413)
        assert kept(bodies) <= MAX_BODY
        nursery.cancel_scope.cancel()


async def test_who_may_publish_has_more_room_from_the_first_byte(
    service: Service, bodies: list[Body]
) -> None:
    async with trio.open_nursery() as nursery:
        request = Uploading()
        call = asgi(service)
        scope = http_scope("/publish", method="POST", headers=TOKEN)
        nursery.start_soon(call, scope, request.receive, request.send)
        for _ in range(10):
            request.upload(100_000)
        await wait_all_tasks_blocked()
        assert kept(bodies) == 1_000_000
        nursery.cancel_scope.cancel()


async def test_of_a_body_that_is_too_long_nothing_is_kept() -> None:
    body = Body(None, 10)
    body.append(b"x" * 10)
    assert not body.too_long
    body.append(b"x")
    assert body.too_long
    assert body._data == b""
    with pytest.raises(RequestEntityTooLarge):
        await body
    assert Body(11, 10).too_long
