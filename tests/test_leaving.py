"""A stream that has ended is gone at once with all it held, whatever it was doing: without the collector,
which the service keeps calm."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.inside import (
    AsgiRequest,
    asgi,
    fleet_of,
    flush_now,
    http_scope,
    note,
    request_stream,
    stream_pair,
    until,
)
from tests.support.log import BackEnd, has_read, new_service, real
from trio_sse.delivery.asgi_source import AsgiOutlet, AsgiSource
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.notices import farewell
from trio_sse.delivery.outlet import SocketOutlet
from trio_sse.delivery.resume import PendingReplay
from trio_sse.service import Service
from trio_sse.web.stream_body import StreamBody

LARGE = 100_000

KINDS = (Connection, PendingReplay, SocketOutlet, AsgiOutlet, AsgiSource, StreamBody)


def held() -> list[object]:
    """What there is of streams, used or not, and of what waited for them to be written: since the test
    began, whatever tests before it have left."""
    return [
        thing
        for thing in gc.get_objects()
        if (isinstance(thing, KINDS) or (isinstance(thing, memoryview) and len(thing) > LARGE // 2))
        and not any(thing is other for other in _before)
    ]


_before: list[object] = []


@pytest.fixture
def collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    _before[:] = held()
    try:
        yield
    finally:
        gc.enable()
        _before.clear()


class Visitor:
    """A client that asks for a stream, reads nothing of it, and leaves when told to."""

    def __init__(self, service: Service, query: str) -> None:
        self.service = service
        self.query = query
        self.left = trio.Event()
        self.gone = trio.Event()

    async def by_socket(self) -> None:
        async with stream_pair() as (near, far):
            near.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)
            async with fleet_of(self.service) as fleet:
                await request_stream(fleet, self.service, near, f"/sse?{self.query}")
                await self.left.wait()
                await far.aclose()
                await until(lambda: len(fleet) == 0)
        self.gone.set()

    async def by_asgi(self) -> None:
        request = Deaf()
        async with trio.open_nursery() as nursery:
            scope = http_scope("/sse", self.query.encode())
            nursery.start_soon(asgi(self.service), scope, request.receive, request.send)
            await self.left.wait()
            request.leave()
        self.gone.set()


class Deaf(AsgiRequest):
    """Takes what is small. What is large it takes never."""

    async def send(self, message: dict[str, object]) -> None:
        if len(message.get("body", b"")) > LARGE // 2:  # type: ignore[arg-type]
            await trio.sleep_forever()
        await super().send(message)


async def waiting_for_its_place(service: Service) -> str:
    return "user_id=ann&last_event_id=" + real("1-0")


async def catching_up_from_memory(service: Service) -> str:
    for _ in range(20):
        service.hub.dispatch(note("ann", data=b"x" * LARGE))
    return f"user_id=ann&last_event_id={service.history.sources.process}.0"


async def live(service: Service) -> str:
    return "user_id=ann"


live_and_blocked = live


def publish_much(service: Service) -> None:
    for _ in range(30):
        service.hub.dispatch(note("ann", data=b"x" * LARGE))
        flush_now(service.hub)
    (connection,) = service.hub.connections
    assert connection._owed
    assert service.counters.dropped


def nothing(service: Service) -> None:
    pass


def drain(service: Service) -> None:
    for connection in service.hub.connections:
        connection.end(farewell("draining", 1))


def stop(service: Service) -> None:
    service.hub.close()


SITUATIONS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "waiting for its place": (waiting_for_its_place, nothing, {"redis_stream": "events"}),
    "drained while waiting": (waiting_for_its_place, drain, {"redis_stream": "events"}),
    "catching up from memory": (catching_up_from_memory, nothing, {}),
    "drained while catching up": (catching_up_from_memory, drain, {}),
    "stopped while catching up": (catching_up_from_memory, stop, {}),
    "live": (live, nothing, {}),
    "live and blocked": (live, publish_much, {}),
    "drained": (live, drain, {}),
    "stopped": (live, stop, {}),
    "refused": (live, nothing, {"max_connections_per_user": 1, "connection_rate_per_address": 0.001}),
}


@pytest.mark.parametrize("way", [Visitor.by_socket, Visitor.by_asgi], ids=["socket", "asgi"])
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_stream_that_ended_is_gone_at_once(
    situation: str, way: Callable[[Visitor], Awaitable[None]], collector: None
) -> None:
    prepare, happen, values = SITUATIONS[situation]
    service = new_service(1, **{"redis_stream": None, "history_seconds": 3600, **values})
    if situation == "refused":
        service.admission.limits.begin("another", "ann", "")
    query = await prepare(service)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            visitor = Visitor(service, query)
            nursery.start_soon(way, visitor)
            await wait_all_tasks_blocked()
            assert held() or situation == "refused"
            happen(service)
            await wait_all_tasks_blocked()
            visitor.left.set()
            await visitor.gone.wait()
            await wait_all_tasks_blocked()
            assert held() == []
            assert len(service.hub) == 0
            service.hub.closed = service.hub.draining = False


@asynccontextmanager
async def reading_the_log(port: int) -> AsyncIterator[Service]:
    async with trio.open_nursery() as nursery:
        service = new_service(port, history_messages=1)
        await nursery.start(flush_forever, service.hub)
        await nursery.start(service.subscriber.run)
        yield service
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", [Visitor.by_socket, Visitor.by_asgi], ids=["socket", "asgi"])
@pytest.mark.parametrize("ends", [False, True])
async def test_who_was_catching_up_from_the_log_is_gone_at_once(
    way: Callable[[Visitor], Awaitable[None]], ends: bool, port: int, back_end: BackEnd, collector: None
) -> None:
    back_end.add(*range(1, 30), padding=40_000)
    async with reading_the_log(port) as service, trio.open_nursery() as nursery:
        await has_read(service, "29-0")
        visitor = Visitor(service, "user_id=ann&last_event_id=" + real("0-1"))
        nursery.start_soon(way, visitor)
        await until(lambda: _blocked(service))
        if ends:
            drain(service)
        visitor.left.set()
        await visitor.gone.wait()
        await until(lambda: not service.resumer.pending)
        await until(lambda: held() == [])  # a walk through the log that has begun may hold it to its end


def _blocked(service: Service) -> bool:
    """Whether somebody was given a page that is not the last, and takes no more."""
    return any(
        connection.catching_up and (replay := connection._replay) and replay.rest and not replay.older
        for connection in service.hub.connections
    )
