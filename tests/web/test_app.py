"""The application that runs a service and answers for it."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.inside import (
    AsgiRequest,
    asgi,
    http_scope,
    settings,
)
from trio_sse.service import Service
from trio_sse.web.app import App


async def test_starting_it_subscribes_and_stopping_it_ends_the_streams(valkey: int) -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=valkey))
    request = AsgiRequest()
    async with trio.open_nursery() as nursery:
        async with App(service).test_app():
            assert service.not_ready() is None
            nursery.start_soon(asgi(service), http_scope("/sse"), request.receive, request.send)
            await request.until(lambda request: b"connected" in request.body)
        assert service.not_ready() == "stopping"
        await request.until(lambda request: request.ended)
    assert len(service.hub) == 0


async def test_it_starts_without_redis_and_says_what_is_wrong() -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=1))
    async with App(service).test_app():
        assert "REDIS_PORT" in (service.not_ready() or "")


async def test_the_end_of_an_answer_is_sent_though_the_client_is_reported_gone_meanwhile() -> None:
    sent_to_the_end = False

    async def send(message: Any) -> None:
        nonlocal sent_to_the_end
        if message["type"] == "http.response.body" and not message.get("more_body"):
            request.leave()  # as Hypercorn's Trio worker does
            await wait_all_tasks_blocked()
            sent_to_the_end = True

    request = AsgiRequest()
    await asgi(Service(settings()))(http_scope("/healthz"), request.receive, send)
    assert sent_to_the_end
