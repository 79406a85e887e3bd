"""One stream on its own socket."""

from __future__ import annotations

import json
import socket
import struct
from functools import partial
from itertools import count
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import events, flush_now, get, note, read, settings, stream_pair, until
from tests.support.tokens import SECRET
from trio_sse.delivery import sse
from trio_sse.server.http1 import Head, read_head
from trio_sse.server.stream import MAX_IGNORED, admit, serve_stream
from trio_sse.service import Service


@pytest.fixture
def service() -> Service:
    return Service(settings())


async def serve(service: Service, near: trio.SocketStream, version: str = "1.0") -> None:
    request = await read_head(near, get("/sse?user_id=ann", version=version), Config())
    assert isinstance(request, Head)
    if opening := await admit(service, request, Config(), near):
        await serve_stream(service, opening, near)


async def test_it_says_connected_and_then_what_is_published(service: Service) -> None:
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(serve, service, near)
        hello = await read(far, b"}\n\n")
        head, _, body = hello.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert [event.event for event in events(body)] == ["connected"]
        service.hub.dispatch(note("ann", data=b"hello"))
        flush_now(service.hub)
        assert b"data: hello\n\n" in await read(far, b"\n\n")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["eof", "reset", "cancel", "hub"])
async def test_however_it_ends_the_connection_is_out_of_the_hub(service: Service, how: str) -> None:
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(serve, service, near)
        await read(far, b"}\n\n")
        assert service.hub.users == ["ann"]
        if how == "eof":
            await far.send_eof()
        elif how == "reset":
            service.hub.announce_gap("restarted")
            await far.aclose()  # with bytes it has not read: the service's end sees ECONNRESET
        elif how == "cancel":
            nursery.cancel_scope.cancel()
        else:
            service.hub.close()
    assert (len(service.hub), service.hub.users) == (0, [])


async def test_a_client_that_is_cancelled_anywhere_leaves_nothing(service: Service) -> None:
    for steps in range(12):
        async with stream_pair() as (near, _far), trio.open_nursery() as nursery:
            nursery.start_soon(serve, service, near)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert len(service.hub) == 0


class OfferAtStep(trio.abc.Instrument):
    """Publishes more than a socket takes at once, before the n-th step of any task, and flushes it."""

    def __init__(self, service: Service, step: int) -> None:
        self.service = service
        self.left = step
        self.offered_to: list[str] = []
        self.error: BaseException | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.offered_to = self.service.hub.users
            self.service.hub.dispatch(note("ann", data=b"x" * 1_000_000))
            try:
                flush_now(self.service.hub)
            except RuntimeError as error:
                self.error = error


@pytest.mark.parametrize("how", ["eof", "reset", "hub", "cancel"])
async def test_a_batch_may_be_offered_at_any_step_of_its_end(how: str) -> None:
    """Partly written it needs a task for the rest, for which it may be too late."""
    offered = []
    for step in count(1):
        service = Service(settings())
        instrument = OfferAtStep(service, step)
        async with stream_pair() as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(serve, service, near)
            await read(far, b"}\n\n")
            trio.lowlevel.add_instrument(instrument)
            if how == "hub":
                service.hub.close()
            elif how == "cancel":
                nursery.cancel_scope.cancel()
            else:
                await (far.send_eof if how == "eof" else far.aclose)()
            while service.hub.users:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(instrument)
            nursery.cancel_scope.cancel()
        assert instrument.error is None
        assert len(service.hub) == 0
        offered.append(instrument.offered_to)
        if not offered[-1]:
            break
    assert offered[0] == ["ann"]


async def test_what_a_client_sends_after_its_request_is_ignored_up_to_a_bound(service: Service) -> None:
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(serve, service, near)
        await far.send_all(b"x" * 1000)
        await wait_all_tasks_blocked()
        assert len(service.hub) == 1
        await far.send_all(b"x" * MAX_IGNORED)
        await until(lambda: len(service.hub) == 0)


async def test_it_ends_the_body_for_clients_that_get_chunks(service: Service) -> None:
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(serve, service, near, "1.1")
        await read(far, b"}\n\n\r\n")
        service.hub.close()
        assert await read(far, sse.LAST_CHUNK) == sse.LAST_CHUNK


@pytest.mark.parametrize(
    ("query", "values", "status"),
    [("user_id=*", {}, 400), ("user_id=ann", {"auth": "jwt", "jwt_secret": SECRET}, 401)],
)
async def test_who_is_refused_gets_a_problem_document_on_the_same_socket(
    query: str, values: dict[str, Any], status: int
) -> None:
    service = Service(settings(**values))
    async with stream_pair() as (near, far):
        request = await read_head(near, get(f"/sse?{query}"), Config())
        assert isinstance(request, Head)
        assert await admit(service, request, Config(), near) is None
        await near.send_eof()
        head, _, body = (await read(far)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-length: %d" % len(body) in head
    assert json.loads(body)["status"] == status
    assert (len(service.hub), service.counters.streams) == (0, 0)


async def test_one_who_does_not_read_its_refusal_is_given_up(autojump_clock: MockClock) -> None:
    service = Service(settings())
    async with stream_pair() as (near, _far):
        with trio.move_on_after(0):
            while True:
                await near.send_all(b"x" * 100_000)
        request = await read_head(near, get("/sse?user_id=*"), Config())
        assert isinstance(request, Head)
        began = trio.current_time()
        assert await admit(service, request, Config(), near) is None
        assert trio.current_time() - began <= service.settings.write_timeout_seconds


async def test_limits_by_address_do_no_harm_on_a_unix_socket() -> None:
    service = Service(settings(max_connections_per_address=5))
    async with stream_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(serve, service, near)
        assert b"event: connected" in await read(far, b"}\n\n")
        nursery.cancel_scope.cancel()


async def test_limits_count_the_address_at_the_other_end() -> None:
    service = Service(settings(max_connections_per_address=1))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(serve, service), 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as first:
            assert b"event: connected" in await read(first, b"}\n\n")
            async with await trio.open_tcp_stream("127.0.0.1", port) as second:
                assert (await read(second)).startswith(b"HTTP/1.0 429 ")
            assert service.admission.limits._addresses == {"127.0.0.1": 1}
        await until(lambda: not service.admission.limits._addresses)
        nursery.cancel_scope.cancel()


async def test_a_stream_on_a_hub_that_was_closed_says_when_to_come_back_and_ends() -> None:
    service = Service(settings())
    service.hub.close()
    async with stream_pair() as (near, far):
        with trio.fail_after(1):
            await serve(service, near)
        await near.send_eof()
        assert b"event: draining" in await read(far)


async def test_whoever_leaves_before_a_refusal_is_no_error(service: Service) -> None:
    async with stream_pair() as (near, far):
        request = await read_head(near, get("/sse?user_id=*"), Config())
        assert isinstance(request, Head)
        # With SO_LINGER 0 closing resets the connection.
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.socket.close()
        assert await admit(service, request, Config(), near) is None
