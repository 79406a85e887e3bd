"""Clocks set back: ids of a stream begin with the time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.chaos.bench import Bench, LeftOutError
from tests.chaos.scenario import scenario
from tests.chaos.scenarios.service_gone import start_again

DAY_MILLISECONDS = 86_400_000


def shifted(clock: str) -> dict[str, str]:
    """The environment of a process whose clock is another one, such as "-1h" """
    for library in Path("/usr/lib").glob("*/faketime/libfaketime.so.1"):
        return {"LD_PRELOAD": str(library), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    raise LeftOutError("needs libfaketime")


def now_milliseconds() -> int:
    return time.time_ns() // 1_000_000


@scenario(
    "Redis back without its data, its clock a day behind", "channel", "stream", "both", stream_gaps=True
)
async def redis_anew_in_the_past(bench: Bench) -> None:
    await bench.assemble()
    for day in range(1, 2 if bench.quick else 5):
        await bench.traffic(0.5)
        await bench.redis.kill()
        shutil.rmtree(bench.redis.directory / "appendonlydir")
        bench.publisher.entry_id = f"{now_milliseconds() - day * DAY_MILLISECONDS}-*"
        await bench.redis.start()
        await bench.flows_again()


@scenario("Redis goes on from ids a day ahead of its clock, everything started again", "stream", "both")
async def ids_ahead(bench: Bench) -> None:
    await bench.assemble()
    await bench.traffic(0.5)
    bench.publisher.entry_id = f"{now_milliseconds() + DAY_MILLISECONDS}-*"
    await bench.flows_again()
    bench.publisher.entry_id = "*"
    await bench.traffic(0.5)
    await bench.redis.kill()
    await bench.redis.start()
    await bench.flows_again()
    service = bench.services[-1]
    service.process.kill()
    await start_again(bench, service)
    await bench.flows_again()


@scenario("Redis back with its data, its clock an hour behind", "stream")
async def redis_clock_back(bench: Bench) -> None:
    clock = shifted("-1h")
    await bench.assemble()
    await bench.traffic(0.5)
    await bench.redis.kill()
    bench.redis.environment = clock
    await bench.redis.start()
    await bench.flows_again()
    await bench.traffic(0.5)


@scenario("the service started again, its clock an hour behind, then ahead", "stream")
async def service_clock(bench: Bench) -> None:
    clocks = [shifted("-1h"), shifted("+1h")]
    await bench.assemble()
    for clock in clocks:
        await bench.traffic(0.5)
        service = bench.services[-1]
        service.process.kill()
        await start_again(bench, service, clock)
        await bench.flows_again()
