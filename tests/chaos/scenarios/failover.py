"""Two Redis and three Sentinels: the master dies, the other takes over."""

from __future__ import annotations

import contextlib

import hiredis
import trio

from tests.chaos.bench import Bench
from tests.chaos.publisher import Publisher
from tests.chaos.resp import BrokenLinkError
from tests.chaos.scenario import scenario
from tests.chaos.servers import DURABLE, Server

MASTER = "chaos"
OPTIONS = {
    **DURABLE,
    # A master that lost its replica takes no writes that a failover would lose.
    "min-replicas-to-write": 1,
    "min-replicas-max-lag": 10,
    "repl-diskless-sync-delay": 0,
}


class Cluster:
    def __init__(self, bench: Bench) -> None:
        self.redis = [self._redis(bench, name) for name in ("a", "b")]
        self._directory = bench.directory
        self._bench = bench
        self.sentinels: list[Server] = []

    def _redis(self, bench: Bench, name: str) -> Server:
        return bench.add_server(Server(bench.directory / name, OPTIONS))

    async def start(self) -> None:
        master, replica = self.redis
        await master.start()
        replica.options["replicaof"] = f"127.0.0.1 {master.port}"
        await replica.start()
        for number in range(3):
            sentinel = Server(self._directory / f"sentinel-{number}", sentinel=self._config(master.port))
            self.sentinels.append(self._bench.add_server(sentinel))
            await sentinel.start()
        await self._replicated()
        for sentinel in self.sentinels:
            while await self._known(sentinel) != (2, 1):
                await trio.sleep(0.05)

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    async def where(self) -> int:
        """The port of the master, as a back end finds it."""
        for sentinel in self.sentinels:
            try:
                address = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            except (BrokenLinkError, hiredis.HiredisError):
                continue
            if address is not None:
                return int(address[1])
        raise BrokenLinkError("no Sentinel answers")

    async def fail_over(self) -> None:
        """Kill the master, wait until the other one is, and bring back the first as its replica."""
        old = await self._master()
        await old.kill()
        new = await self._master()
        old.options["replicaof"] = f"127.0.0.1 {new.port}"
        new.options.pop("replicaof", None)
        await old.start()
        await self._replicated()

    async def _master(self) -> Server:
        """Wait until the Sentinels name one, and it says so itself."""
        while True:
            with contextlib.suppress(BrokenLinkError):
                port = await self.where()
                server = next(server for server in self.redis if server.port == port)
                if (await server.ask("ROLE"))[0] == b"master":
                    return server
            await trio.sleep(0.02)

    async def _replicated(self) -> None:
        while b"state=online" not in await (await self._master()).ask("INFO", "replication"):
            await trio.sleep(0.02)

    async def _known(self, sentinel: Server) -> tuple[int, int]:
        """How many other Sentinels and how many replicas it knows."""
        flat = await sentinel.ask("SENTINEL", "MASTER", MASTER)
        facts = dict(zip(flat[::2], flat[1::2], strict=True))
        return int(facts[b"num-other-sentinels"]), int(facts[b"num-slaves"])

    @staticmethod
    def _config(port: int) -> str:
        return "\n".join(
            (
                f"sentinel monitor {MASTER} 127.0.0.1 {port} 2",
                f"sentinel down-after-milliseconds {MASTER} 2000",
                f"sentinel failover-timeout {MASTER} 4000",
                f"sentinel parallel-syncs {MASTER} 1",
            )
        )


@scenario("master killed, Sentinel makes the replica master", "channel", "stream", seconds=180)
async def failover(bench: Bench) -> None:
    cluster = Cluster(bench)
    await cluster.start()
    bench.redis = cluster.redis[0]
    await bench.start_service({"REDIS_SENTINELS": cluster.addresses, "REDIS_SENTINEL_MASTER": MASTER})
    bench.open_ledger(20)
    await bench.start_clients(bench.to(bench.services[0].port))
    await bench.start_publisher(Publisher(bench.ledger, cluster.where, replicas=1), 200)
    for _ in range(1 if bench.quick else 3):
        await bench.traffic(1)
        await cluster.fail_over()
        await bench.flows_again()
