"""Redis killed, frozen, full, locked, or tired of its clients."""

from __future__ import annotations

import trio

from tests.chaos.bench import Bench
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import Publisher
from tests.chaos.scenario import scenario

FROZEN_SECONDS = 20
"""Longer than a PING every 5 s and 10 s of patience for its PONG."""


@scenario("Redis killed (SIGKILL) and started again", "channel", "stream", "both", "by key", "partitions")
async def redis_killed(bench: Bench) -> None:
    await bench.assemble()
    for _ in range(2 if bench.quick else 8):
        await bench.traffic(0.4)
        await bench.redis.kill()
        await bench.traffic(0.3)
        await bench.redis.start()
        await bench.flows_again()


@scenario(f"Redis frozen (SIGSTOP) for {FROZEN_SECONDS} s", "channel", "stream")
async def redis_frozen(bench: Bench) -> None:
    await bench.assemble()
    await bench.traffic(1)
    bench.redis.freeze()
    await bench.traffic(FROZEN_SECONDS)
    assert not bench.services[0].answers("/readyz"), "the service was to notice"
    bench.redis.thaw()
    await bench.flows_again()
    await bench.traffic(1)


@scenario(
    "the connections to Redis half-open: nothing comes, nobody says so",
    "channel",
    "stream",
    "by key",
    "partitions",
)
async def half_open(bench: Bench) -> None:
    bench.redis = await bench.start_redis()
    proxy = Proxy(bench.redis.port)
    await bench.nursery.start(proxy.run)
    service = await bench.start_service({"REDIS_PORT": str(proxy.port)})
    bench.open_ledger(20)
    await bench.start_clients(bench.to(service.port))
    await bench.start_publisher(Publisher(bench.ledger, bench.redis.where), 200)
    for _ in range(1 if bench.quick else 3):
        await bench.traffic(1)
        proxy.silence()
        await bench.flows_again()


@scenario("CLIENT KILL of the service's connections", "channel", "stream", "both", "by key", "partitions")
async def client_kill(bench: Bench) -> None:
    await bench.assemble()
    for kind in ("pubsub", "normal") * (1 if bench.quick else 5):
        await bench.traffic(0.3)
        await bench.redis.ask("CLIENT", "KILL", "TYPE", kind)
        await bench.flows_again()


@scenario("Redis out of memory for a while", "stream", "both")
async def redis_full(bench: Bench) -> None:
    await bench.assemble()
    for _ in range(1 if bench.quick else 3):
        await bench.traffic(0.4)
        await bench.redis.ask("CONFIG", "SET", "maxmemory", "1")
        refused = bench.publisher.refused
        await bench.traffic(1)
        assert bench.publisher.refused > refused, "XADD was to be refused"
        assert bench.services[0].answers("/readyz")
        await bench.redis.ask("CONFIG", "SET", "maxmemory", "0")
        await bench.flows_again()


@scenario("Redis back with another password, later the right one", "channel", "stream")
async def redis_locked(bench: Bench) -> None:
    await bench.assemble(password="right")
    for _ in range(1 if bench.quick else 3):
        await bench.traffic(0.4)
        await bench.redis.kill()
        bench.redis.options["requirepass"] = "another"
        await bench.redis.start()
        while "redis_refused" not in bench.services[0].get("/readyz").body.decode():
            await trio.sleep(0.05)
        await bench.traffic(0.3)
        await bench.redis.ask("CONFIG", "SET", "requirepass", "right", password="another")
        await bench.flows_again()
