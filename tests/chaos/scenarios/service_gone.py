"""The service itself killed, or ended for a deployment."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import trio

from tests.chaos.bench import Bench
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import Publisher
from tests.chaos.scenario import scenario
from tests.support.process import Service


def workers(service: Service) -> list[int]:
    """The worker processes of a service with several."""
    pid = service.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


async def start_again(bench: Bench, ended: Service, settings: Mapping[str, str] = {}) -> None:
    """What systemd does (Restart=always): wait for the end of all of it, then start it on the same port."""
    await trio.to_thread.run_sync(ended.wait)
    await bench.start_service(settings, port=ended.port)


@scenario("one of two workers killed (SSE_WORKERS=2), all started again", "channel", "stream", "both")
async def worker_killed(bench: Bench) -> None:
    settings = {"SSE_WORKERS": "2", "SSE_DRAIN_SECONDS": "1"}
    await bench.assemble(settings, rate=300)
    for _ in range(1 if bench.quick else 5):
        await bench.traffic(0.5 if bench.quick else 3)
        service = bench.services[-1]
        os.kill(workers(service)[0], signal.SIGKILL)
        # Hypercorn ends all workers when one was killed.
        await start_again(bench, service, settings)
        await bench.flows_again()


@scenario("the service killed and started again", "channel", "stream", "both", "by key", "partitions")
async def service_killed(bench: Bench) -> None:
    await bench.assemble()
    for _ in range(1 if bench.quick else 5):
        await bench.traffic(0.5 if bench.quick else 3)
        service = bench.services[-1]
        service.process.kill()
        await start_again(bench, service)
        await bench.flows_again()


@scenario("SIGTERM and drain while another service takes over", "channel", "stream", "both")
async def deployment(bench: Bench) -> None:
    settings = {"SSE_DRAIN_SECONDS": "1.5" if bench.quick else "5"}
    bench.redis = await bench.start_redis()
    service = await bench.start_service(settings)
    proxy = Proxy(service.port, mean_bytes=3_000)
    await bench.nursery.start(proxy.run)
    bench.open_ledger(40)
    await bench.start_clients(bench.to(proxy.port))
    await bench.start_publisher(Publisher(bench.ledger, bench.redis.where), 300)
    for _ in range(1 if bench.quick else 4):
        await bench.traffic(0.5)
        successor = await bench.start_service(settings)
        proxy.target = successor.port
        service.process.send_signal(signal.SIGTERM)
        stopped = await trio.to_thread.run_sync(service.wait)
        assert stopped.code == 0, service.log
        service = successor
        await bench.flows_again()
