"""One request of an HTTP/2 connection and the others. Over sockets: tests/integration/test_http2.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.connection
import h2.events
import trio
from h2.errors import ErrorCodes
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import wait_all_tasks_blocked

from trio_sse.server.http2.bounds import UNREAD_BYTES
from trio_sse.server.http2.protocol import ContainedProtocol

HEAD = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "x")]

App = Callable[[Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Talk:
    """A client, and the protocol that it talks to without a socket between them."""

    def __init__(self, protocol: ContainedProtocol) -> None:
        self.http = h2.connection.H2Connection()
        self.http.initiate_connection()
        self.events: list[Any] = []
        self.protocol = protocol
        self.closed = False

    async def take(self, event: object) -> None:
        if isinstance(event, RawData):
            self.events += self.http.receive_data(event.data)
        elif isinstance(event, Closed) and not self.closed:
            self.closed = True
            await self.protocol.handle(event)

    async def say(self) -> None:
        await self.protocol.handle(RawData(self.http.data_to_send()))
        await wait_all_tasks_blocked()

    def ended(self, stream_id: int) -> list[Any]:
        kinds = (h2.events.StreamEnded, h2.events.StreamReset)
        return [event for event in self.events if isinstance(event, kinds) and event.stream_id == stream_id]


@asynccontextmanager
async def talk(application: App) -> AsyncIterator[Talk]:
    async def app(_: object, receive: Any, send: Any, *__: object) -> None:
        await application(receive, send)

    async def send(event: object) -> None:
        await talking.take(event)

    async with trio.open_nursery() as nursery:
        group = TaskGroup()
        group._nursery = nursery
        context: Any = WorkerContext(None)
        state: Any = {}
        protocol = ContainedProtocol(app, Config(), context, group, state, False, None, None, send)
        talking = Talk(protocol)
        await protocol.initiate()
        await talking.say()
        yield talking
        nursery.cancel_scope.cancel()


async def answer(send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_client_may_send_as_much_as_its_window_and_more_when_that_is_taken() -> None:
    taking = trio.Event()

    async def application(receive: Callable[[], Awaitable[Any]], _: object) -> None:
        await taking.wait()
        while True:
            await receive()

    async with talk(application) as client:
        client.http.send_headers(1, HEAD)
        for _ in range(60):
            client.http.send_data(1, bytes(1024))
        await client.say()
        assert client.http.local_flow_control_window(1) == 65_535 - 60 * 1024
        taking.set()
        await wait_all_tasks_blocked()
        assert client.http.local_flow_control_window(1) > 30_000


async def test_what_an_application_leaves_untaken_shrinks_nobody_s_window() -> None:
    async def application(_: object, send: Callable[[Any], Awaitable[None]]) -> None:
        await answer(send)

    async with talk(application) as client:
        for stream_id in range(1, 41, 2):
            client.http.send_headers(stream_id, HEAD)
            client.http.send_data(stream_id, bytes(16_000))
            await client.say()
            assert client.ended(stream_id)
        assert client.http.outbound_flow_control_window > 30_000


async def test_a_body_after_its_answer_is_dropped_and_in_the_end_stopped() -> None:
    async def application(_: object, send: Callable[[Any], Awaitable[None]]) -> None:
        await answer(send)

    async with talk(application) as client:
        client.http.send_headers(1, HEAD)
        await client.say()
        sent = 0
        while not any(isinstance(event, h2.events.StreamReset) for event in client.events):
            client.http.send_data(1, bytes(16_000))
            sent += 16_000
            await client.say()
        assert UNREAD_BYTES < sent < UNREAD_BYTES + 100_000
        assert client.ended(1)[-1].error_code == ErrorCodes.NO_ERROR


async def test_an_application_that_fails_in_its_answer_resets_its_stream() -> None:
    async def application(_: object, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError

    async with talk(application) as client:
        client.http.send_headers(1, HEAD)
        await client.say()
        assert [event.error_code for event in client.ended(1)] == [ErrorCodes.INTERNAL_ERROR]


async def test_an_error_in_making_a_stream_resets_it() -> None:
    async def application(_: object, send: Callable[[Any], Awaitable[None]]) -> None:
        await answer(send)

    async with talk(application) as client:

        async def fail(*_: object) -> None:
            raise KeyError

        client.protocol._create = fail  # type: ignore[assignment, method-assign]
        client.http.send_headers(1, HEAD, end_stream=True)
        await client.say()
        assert [event.error_code for event in client.ended(1)] == [ErrorCodes.INTERNAL_ERROR]
        del client.protocol._create
        client.http.send_headers(3, HEAD, end_stream=True)
        await client.say()
        assert [type(event) for event in client.ended(3)] == [h2.events.StreamEnded]


async def test_a_cancelled_application_takes_no_header_field_with_it() -> None:
    """What it was about to say is in the table of header fields, by which later ones are read."""

    async def application(_: object, send: Callable[[Any], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with talk(application) as client:
        for stream_id in (1, 3):
            client.http.send_headers(stream_id, HEAD, end_stream=True)
            await client.say()
        heads = [event.headers for event in client.events if isinstance(event, h2.events.ResponseReceived)]
        assert [(b"a", b"b") in head for head in heads] == [True, True]
