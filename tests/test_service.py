"""Settings in, a wired application out."""

from __future__ import annotations

import random
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.support import AsgiRequest, asgi, events, http_scope, settings
from trio_sse.service import RETRY_MILLISECONDS, create_app


def test_making_an_application_starts_nothing() -> None:
    service = create_app(settings(redis_host="no.such.host.invalid"))
    assert service.not_ready() == "Redis: not connected yet"


async def test_a_connection_is_in_the_hub_before_its_first_byte() -> None:
    service = create_app(settings(buffer=3, heartbeat_seconds=7))
    connection, hello = service.open_connection("ann", None)
    assert service.hub.users == ["ann"]
    assert connection.channel.statistics().max_buffer_size == 3
    assert events(hello)[0].json()["heartbeat_seconds"] == 7
    service.hub.leave(connection)


async def test_browsers_come_back_spread_over_some_seconds() -> None:
    random.seed(1)
    service = create_app(settings())
    delays = {events(service.open_connection("1", None)[1])[0].retry or 0 for _ in range(50)}
    assert RETRY_MILLISECONDS == (2000, 5000)
    assert len(delays) > 30
    assert min(delays) >= 2000
    assert max(delays) <= 5000


async def test_positions_of_one_process_are_not_those_of_another() -> None:
    first = create_app(settings()).hub.position
    await trio.sleep(0.002)
    assert create_app(settings()).hub.position != first


async def test_starting_it_subscribes_and_stopping_it_ends_the_streams(valkey: int) -> None:
    service = create_app(settings(redis_host="127.0.0.1", redis_port=valkey))
    request = AsgiRequest()
    async with trio.open_nursery() as nursery:
        async with service.test_app():
            assert service.not_ready() is None
            nursery.start_soon(asgi(service), http_scope("/sse"), request.receive, request.send)
            await request.until(lambda request: b"connected" in request.body)
        assert service.not_ready() == "stopping"
        await request.until(lambda request: request.ended)
    assert len(service.hub) == 0


async def test_it_starts_without_redis_and_says_what_is_wrong() -> None:
    service = create_app(settings(redis_host="127.0.0.1", redis_port=1))
    async with service.test_app():
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
    await asgi(create_app(settings()))(http_scope("/healthz"), request.receive, send)
    assert sent_to_the_end
