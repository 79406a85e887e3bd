"""A stream as the body of a response: it is in the hub for as long as the response lasts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.inside import AsgiRequest, asgi, http_scope, requested, settings, until
from tests.support.inside import events as parsed
from trio_sse.access.admission import Accepted
from trio_sse.delivery.resume import Start
from trio_sse.service import Service
from trio_sse.web.stream_body import StreamBody


@pytest.fixture
def service() -> Service:
    return Service(settings())


class SendError(Exception):
    pass


async def test_a_client_that_leaves_is_removed(service: Service) -> None:
    async with requested(service) as stream:
        await stream.until(lambda request: b"connected" in request.body)
        assert len(service.hub) == 1
    assert len(service.hub) == 0


async def test_closing_the_hub_ends_a_stream_properly(service: Service) -> None:
    async with requested(service) as stream:
        await stream.until(lambda request: b"connected" in request.body)
        service.hub.close()
        await stream.until(lambda request: request.ended)
    assert len(service.hub) == 0


async def test_a_stream_stays_open_longer_than_a_response_may(
    service: Service, autojump_clock: MockClock
) -> None:
    async with requested(service) as stream:
        await trio.sleep(1000)
        assert not stream.ended
        assert len(service.hub) == 1


async def test_a_stream_whose_send_fails_is_removed(service: Service) -> None:
    async def broken(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise SendError

    with pytest.RaisesGroup(SendError, flatten_subgroups=True, allow_unwrapped=True):
        await asgi(service)(http_scope("/sse"), AsgiRequest().receive, broken)
    assert len(service.hub) == 0


@pytest.mark.parametrize("steps", range(30))
async def test_a_request_that_is_cancelled_anywhere_leaves_nothing(service: Service, steps: int) -> None:
    with trio.CancelScope() as scope:
        async with requested(service):
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert (len(service.hub), service.hub.users) == (0, [])


class HeadSentError(Exception):
    pass


async def test_it_is_in_the_hub_before_the_head_of_the_response_leaves(service: Service) -> None:
    # To a browser the stream is open then, and what is published from now on must reach it.
    async def seen(message: Any) -> None:
        assert message["type"] == "http.response.start"
        assert service.hub.users == ["1"]
        raise HeadSentError

    with pytest.RaisesGroup(HeadSentError, flatten_subgroups=True, allow_unwrapped=True):
        await asgi(service)(http_scope("/sse"), AsgiRequest().receive, seen)
    assert len(service.hub) == 0


@pytest.mark.parametrize("how", [None, ValueError(), KeyboardInterrupt()])
async def test_a_body_is_out_of_the_hub_however_it_ends(service: Service, how: BaseException | None) -> None:
    body = StreamBody(service, Accepted("ann", Start(), ()))
    with contextlib.suppress(ValueError, KeyboardInterrupt), body.joined():
        assert service.hub.users == ["ann"]
        if how is not None:
            raise how
    assert (len(service.hub), service.hub.users) == (0, [])


async def test_while_it_is_open_redis_is_read_at_its_server_s_pace(service: Service) -> None:
    with StreamBody(service, Accepted("ann", Start(), ())).joined():
        assert service.hub.by_server == 1
    assert service.hub.by_server == 0


async def test_a_body_ends_with_its_connection(service: Service) -> None:
    stream = StreamBody(service, Accepted("ann", Start(), ()))
    with stream.joined():
        async with stream as body:
            service.hub.close()
            chunks = [chunk async for chunk in body]
    assert [event.event for event in parsed(b"".join(chunks))] == ["connected"]


async def test_a_body_that_was_ended_before_it_began_ends_at_once(service: Service) -> None:
    stream = StreamBody(service, Accepted("ann", Start(), ()))
    stream.end()
    with stream.joined():
        async with stream as body:
            chunks = [chunk async for chunk in body]
    assert [event.event for event in parsed(b"".join(chunks))] == ["connected"]


async def test_streams_of_one_user_come_and_go_by_themselves(service: Service) -> None:
    async with requested(service) as first:
        async with requested(service) as second:
            await until(lambda: first.body and second.body)
            assert len(service.hub) == 2
        await until(lambda: len(service.hub) == 1)
        assert not first.ended
