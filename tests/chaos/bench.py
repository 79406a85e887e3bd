"""Everything a scenario works with: Redis, services, clients, the publisher, and the count at the end."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import trio

from tests.chaos.client import Client, Dial
from tests.chaos.keys import EVERYBODY, Keys, somebody, topic
from tests.chaos.ledger import Count, Gap, Lane, Ledger
from tests.chaos.publisher import CHANNEL, LAYOUT, STREAM, ClusterPublisher, Parcel, Publisher
from tests.chaos.servers import DURABLE, Server
from tests.chaos.witness import Witness
from tests.support.client import connect
from tests.support.clusters import Cluster, cluster
from tests.support.process import Service, Services
from tests.support.scraped import samples, total, undeclared

Source = Literal["channel", "stream", "both", "by key", "partitions", "cluster", "cluster log"]
Resource = TypeVar("Resource")

LANES: Mapping[Source, tuple[Lane, ...]] = {
    "channel": ("channel",),
    "stream": ("stream",),
    "both": ("channel", "stream"),
    "by key": ("channel",),
    "partitions": ("stream",),
    "cluster": ("channel",),
    "cluster log": ("stream",),
}
METRICS_TOKEN = "a-token-for-the-metrics"
CLUSTERS: tuple[Source, ...] = ("cluster", "cluster log")
PARTITIONED: tuple[Source, ...] = ("partitions", "cluster log")
PROBE_SECONDS = 0.1
USERS_TO_A_TOPIC = 5
LAST_SECONDS = 3
"""After so long the last message is taken for lost on the way, and there is another one."""


class LeftOutError(Exception):
    """This machine lacks what the scenario needs."""


class Bench:
    """Whatever is started here ends with `close`, in whatever state it is."""

    def __init__(self, source: Source, *, quick: bool, directory: Path, nursery: trio.Nursery) -> None:
        self.source = source
        self.lanes = LANES[source]
        self.quick = quick
        self.directory = directory
        self.nursery = nursery
        self.users: list[str] = []
        self.topics: list[str] = []
        self.clients: list[Witness] = []
        self.seconds: list[float] = []
        """How long it took until messages flowed again, fault by fault."""
        self.redis: Server
        self.cluster: Cluster
        self.ledger: Ledger
        self.publisher: Publisher
        self.services: list[Service] = []
        self._stack = contextlib.ExitStack()

    # Making it

    async def assemble(
        self,
        settings: Mapping[str, str] = {},
        *,
        users: int = 20,
        rate: float = 200,
        password: str | None = None,
    ) -> None:
        """The usual: a Redis, a service, two clients for some users and one for others, of which every other
        one follows topics too, and a publisher."""
        self.redis = await self.start_redis({**DURABLE, **({"requirepass": password} if password else {})})
        if password:
            settings = {**settings, "REDIS_PASSWORD": password}
        await self.start_service(settings)
        self.open_ledger(users)
        await self.start_clients(self.to(self.services[0].port))
        await self.start_publisher(Publisher(self.ledger, self.redis.where, password=password), rate)

    async def assemble_cluster(
        self, settings: Mapping[str, str] = {}, *, users: int = 20, rate: float = 200, services: int = 1
    ) -> None:
        """The same at three masters, each with a replica, and with so many services: clients connect to any
        of them each time."""
        self.cluster = await trio.to_thread.run_sync(self.until_closed, cluster(3, 1))
        for _ in range(services):
            await self.start_service(settings)
        self.open_ledger(users)
        await self.start_clients(self.to_any)
        nodes = self.cluster
        publisher = ClusterPublisher(
            self.ledger,
            lambda: [node.port for node in nodes.alive],
            replicas=int(self.source == "cluster log"),
        )
        await self.start_publisher(publisher, rate)

    def open_ledger(self, users: int) -> None:
        self.users = [f"u{number}" for number in range(users)]
        self.topics = [topic(f"t{number}") for number in range(max(3, users // USERS_TO_A_TOPIC))]
        self.ledger = Ledger(by_key=self.source in (*CLUSTERS, *PARTITIONED))

    def follows(self, user: str) -> Keys:
        """What a client of this user follows: every other one two topics beside the user."""
        number = self.users.index(user)
        if number % 2 == 0:
            return (user,)
        return (user, *((self.topics * 2)[number % len(self.topics) :][:2]))

    def somebody(self) -> Keys:
        """Who the next message is for."""
        return somebody(self.users, self.topics)

    async def start_redis(self, options: Mapping[str, object] = DURABLE) -> Server:
        server = self.add_server(Server(self.directory / "redis", options))
        await server.start()
        return server

    def add_server(self, server: Server) -> Server:
        self._stack.callback(server.close)
        return server

    async def start_service(self, settings: Mapping[str, str] = {}, *, port: int | None = None) -> Service:
        """Start one and wait until it is ready."""
        directory = self.directory / f"service-{len(self.services)}"
        directory.mkdir()
        start = Services(directory, None if self.source in CLUSTERS else self.redis.port)
        self._stack.callback(start.close)
        settings = {"SSE_REDIS_CHANNEL": CHANNEL, "SSE_METRICS_TOKEN": METRICS_TOKEN, **settings}
        if "stream" in self.lanes:
            settings["SSE_REDIS_STREAM"] = STREAM
        if self.source in PARTITIONED:
            settings["SSE_STREAM_PARTITIONS"] = str(LAYOUT.partitions)
        if self.source in ("by key", "cluster"):
            settings["SSE_REDIS_ROUTING"] = "by-key"
        if self.source in CLUSTERS:
            settings["REDIS_CLUSTER"] = ",".join(node.address for node in self.cluster.alive)
        options: dict[str, Any] = {"port": port, **settings}
        service = await trio.to_thread.run_sync(partial(start, **options))
        self.services.append(service)
        return service

    @staticmethod
    def to(port: int, *, receive_buffer: int | None = None) -> Dial:
        return partial(connect, port, receive_buffer=receive_buffer)

    async def to_any(self) -> trio.SocketStream:
        """Connect to one of the services that run."""
        running = [service for service in self.services if service.running]
        return await connect(random.choice(running or self.services).port)

    async def start_clients(self, dial: Dial, users: Sequence[str] = (), *, twice: int = 3) -> list[Client]:
        """A client for each user, two for each of the first `twice`, and one of three topics without a user.
        Returns when all are connected."""
        users = users or self.users
        follows = [self.follows(user) for user in [*users, *users[:twice]]]
        started = [Client(keys, dial) for keys in (*follows, tuple(self.topics[:3]))]
        for client in started:
            self.nursery.start_soon(client.run)
        for client in started:
            await client.connected.wait()
        self.clients += started
        return started

    async def start_publisher(
        self, publisher: Publisher, rate: float, watched: Sequence[Witness] = ()
    ) -> None:
        """Returns when every client, or each of those, has had a message by each way. Until then a process
        does not know that the channel is in use beside a stream, and its ids do not speak of it."""
        self.publisher = publisher
        publisher.by_key = self.source == "by key"
        publisher.partitioned = self.source in PARTITIONED
        self.nursery.start_soon(publisher.run)
        await self.flows_again(watched)
        self.seconds.clear()
        if rate:
            self.nursery.start_soon(publisher.load, self.somebody, self.lanes, rate)

    def until_closed(self, resource: AbstractContextManager[Resource]) -> Resource:
        return self._stack.enter_context(resource)

    # Using it

    def some_clients(self, share: float = 0.3) -> list[Client]:
        clients = [client for client in self.clients if isinstance(client, Client)]
        return random.sample(clients, max(1, round(len(clients) * share)))

    async def traffic(self, seconds: float) -> None:
        """Let messages flow for a while, with some clients losing their connections meanwhile."""
        await trio.sleep(seconds / 2)
        for client in self.some_clients():
            client.drop()
        await trio.sleep(seconds / 2)

    async def flows_again(self, watched: Sequence[Witness] = ()) -> None:
        """Wait until every client that reads, or each of those, has a message that was published from now on.

        How long that took is noted.
        """
        began = trio.current_time()
        kinds = [(keys, lane) for lane in self.lanes for keys in self._probed]
        probes = [[self.publisher.put(keys, lane)] for keys, lane in kinds]
        due = began + PROBE_SECONDS
        while not all(any(self._has_reached(probe, watched) for probe in tried) for tried in probes):
            await trio.sleep(0.01)
            if trio.current_time() >= due:
                due += PROBE_SECONDS
                for tried, (keys, lane) in zip(probes, kinds, strict=True):
                    if tried[-1].accepted and not self._has_reached(tried[-1], watched):
                        tried.append(self.publisher.put(keys, lane))
        self.seconds.append(trio.current_time() - began)

    @property
    def _probed(self) -> list[Keys]:
        """Who is to get a message before all is well: in a cluster each key, as any may be at a master that
        is away, and in a log in partitions, as each is read by itself."""
        keys = [*self.users, *self.topics] if self.source in (*CLUSTERS, *PARTITIONED) else []
        return [*((key,) for key in keys), (EVERYBODY,)]

    def _has_reached(self, probe: Parcel, watched: Sequence[Witness] = ()) -> bool:
        return probe.accepted and all(
            probe.serial in client.serials
            for client in watched or self.clients
            if client.attentive and not {*client.follows, EVERYBODY}.isdisjoint(probe.keys)
        )

    async def settle(self) -> None:
        """Publish no more but a last message for everybody, and wait until everybody has it."""
        self.publisher.paused = True
        for keys, lane in [(keys, lane) for lane in self.lanes for keys in self._probed]:
            reached = False
            while not reached:
                probe = self.publisher.put(keys, lane)
                with trio.move_on_after(LAST_SECONDS):
                    while not (not self.publisher.backlog and self._has_reached(probe)):
                        await trio.sleep(0.01)
                    reached = True

    def balance(self) -> list[str]:
        """What is wrong with what the services that are left say of what was published to their streams. One
        that was there all the time has delivered what clients saw: more, where connections were cut.
        Blocks."""
        wrong = []
        for service in self.services:
            if service.running:
                answer = service.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
                found = samples(answer.body.decode())
                if undeclared(found) or not found["published_to_streams_total",]:
                    wrong.append(f"the balance is not exact: {found}")
                told = (total(found, "delivered_total"), total(found, "gaps_total"))
                if len(self.services) == 1 and not (told[0] >= self.seen[0] and told[1] >= self.seen[1]):
                    wrong.append(f"clients saw {self.seen} messages and gaps, and {told} were counted")
        return wrong

    @property
    def seen(self) -> tuple[int, int]:
        """How many messages and gaps all clients together have seen."""
        sights = [sight for client in self.clients for sight in client.sights]
        gaps = sum(isinstance(sight, Gap) for sight in sights)
        return len(sights) - gaps, gaps

    def count(self, clients: Iterable[Witness] | None = None) -> Count:
        total = Count()
        for client in self.clients if clients is None else clients:
            total.add(self.ledger.count(client.follows, client.sights))
        return total

    def worst(self) -> list[str]:
        """The few clients with the most wrong, for whoever looks for the reason."""
        if not self.users:
            return []
        counts = [(client, self.ledger.count(client.follows, client.sights)) for client in self.clients]
        counts.sort(key=lambda pair: (pair[1].faults, pair[1].covered, pair[1].gaps), reverse=True)
        return [
            f"{client.follows}: {count}, gaps: {reasons(client)}, {client.connections} connections,"
            f" last id {client.last_id}"
            for client, count in counts[:3]
        ]

    def close(self) -> None:
        """End every process. Blocks. Raises AssertionError when the log of a service has a mistake in it."""
        self._stack.close()


def reasons(client: Witness) -> dict[str, int]:
    """The gaps it saw, by reason."""
    return Counter(sight.reason for sight in client.sights if isinstance(sight, Gap))
