"""A service whose log is in partitions, on a real Redis or a cluster, without a server in front."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import redis
import trio

from tests.support.clusters import Cluster
from tests.support.inside import Client, settings, until
from trio_sse.access.admission import Accepted
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.resume import Start
from trio_sse.delivery.targets import Target, topic
from trio_sse.service import Service

LAYOUT = Layout("notes", 8)


class Log:
    """Appends to the log as a back end does: to each partition that one of the targets is in."""

    def __init__(self, call: Any, layout: Layout = LAYOUT) -> None:
        self._call = call
        self.layout = layout
        self.count = 0
        self.entry = "*"
        """The id that the next message asks for."""

    def add(self, users: Iterable[str] = (), topics: Iterable[str] = (), **fields: Any) -> int:
        """A message for these; for everybody without any. Returns its number."""
        users, topics = list(users), list(topics)
        targets: list[Target] | None = [*users, *map(topic, topics)] or None
        named = {"user_id": users, "topic": topics} if targets else {"user_id": "*"}
        target = {name: value for name, value in named.items() if value}
        self.count += 1
        payload = json.dumps({**target, "n": self.count, **fields})
        for number in self.layout.numbers(targets):
            self._call(self.layout.name(number), "XADD", self.entry, "payload", payload)
        return self.count


@contextmanager
def log_at(port: int, layout: Layout = LAYOUT) -> Iterator[Log]:
    """The log at one Redis, in database 0."""
    with redis.Redis(port=port) as client:

        def call(key: str, verb: str, *arguments: str) -> None:
            cast(Any, client).execute_command(verb, key, *arguments)

        yield Log(call, layout)


def log_in(cluster: Cluster, layout: Layout = LAYOUT) -> Log:
    """The log in a cluster."""

    def call(key: str, verb: str, *arguments: str) -> None:
        cluster.master_of(key).call(verb, key, *arguments)

    return Log(call, layout)


class Partitioned:
    """A service that runs."""

    def __init__(self, **values: Any) -> None:
        at = {
            "redis_stream": LAYOUT.key,
            "stream_partitions": LAYOUT.partitions,
            "redis_main_db": 0,
            **values,
        }
        self.service = Service(settings(**at))
        self._connections: dict[Client, Connection] = {}

    def join(
        self, user: str | None = None, topics: Iterable[str] = (), *, busy: bool = False, **start: Any
    ) -> Client:
        """A client that gets all that it may get."""
        connection = self.service.open(Accepted(user, Start(**start), (), topics=tuple(topics)))
        client = Client(connection, busy=busy)
        self._connections[client] = connection
        return client

    def leave(self, client: Client) -> None:
        self.service.release(self._connections.pop(client))


@asynccontextmanager
async def partitioned(port: int | None = None, **values: Any) -> AsyncIterator[Partitioned]:
    """It runs as long as the block lasts."""
    at = {} if port is None else {"redis_host": "127.0.0.1", "redis_port": port}
    running = Partitioned(**at, **values)
    async with trio.open_nursery() as nursery:
        await nursery.start(running.service.run)
        yield running
        nursery.cancel_scope.cancel()


async def connected(*clients: Client) -> None:
    await until(lambda: all("connected" in client.names for client in clients))
