"""Several workers are one service: counts, spread, and the stop."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.client import Stream, connect, eventually, streams
from tests.support.process import Service, Services
from tests.support.variants import COMMANDS, TRIO_SSE, Variant

pytestmark = pytest.mark.integration

WORKERS = 2
USERS = [f"user{number % 40}" for number in range(120)]


def start_workers(start: Services, variant: Variant, workers: int = WORKERS, **settings: Any) -> Service:
    if variant is TRIO_SSE:
        return start(variant, SSE_WORKERS=str(workers), **settings)
    return start(variant, "-w", str(workers), **settings)


async def all_ready(service: Service) -> None:
    """Until each worker has told its counts."""
    await eventually(
        lambda: service.get("/readyz").json.get("workers") == WORKERS, "all workers are there", 60
    )


def streams_of(service: Service) -> Counter[int]:
    """How many connections each worker has, by the kernel."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    here = {
        row[9]
        for row in map(str.split, table)
        if row[3] == "01" and int(row[1].rpartition(":")[2], 16) == service.port
    }
    found: Counter[int] = Counter()
    for worker in service.workers:
        links = (os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd"))
        found[worker] = len({link[8:-1] for link in links if link.startswith("socket:")} & here)
    return found


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_whichever_answers_has_the_counts_of_all(start: Services, variant: Variant) -> None:
    service = start_workers(start, variant)
    await all_ready(service)
    async with streams(service.port, USERS) as opened:
        for _ in range(10):  # by different workers
            told = service.get("/readyz").json
            assert (told["connections"], told["users"], told["totals"]["streams"]) == (120, 40, 120)
        for n in range(5):
            service.publish("*", n=n)
        for stream in opened:
            assert [(await stream.notification())["n"] for _ in range(5)] == list(range(5))
        await eventually(lambda: service.get("/readyz").json["totals"]["published"] == 5, "each counts once")
        shares = streams_of(service)
        assert len(shares) == WORKERS
        assert all(30 <= count <= 90 for count in shares.values()), shares
    await eventually(lambda: service.connections == 0, "all have left")


async def test_by_key_each_worker_has_its_own_keys(start: Services) -> None:
    service = start_workers(start, TRIO_SSE, SSE_REDIS_ROUTING="by-key")
    await all_ready(service)
    async with streams(service.port, USERS) as opened:
        assert service.get("/readyz").json["users"] == 40
        assert service._redis is not None
        subscribers = service._redis.pubsub_numsub(f"{service.channel}:user:user7")[0][1]
        assert 1 <= subscribers <= WORKERS
        for user in set(USERS):
            service._redis.publish(f"{service.channel}:user:{user}", f'{{"message":"{user}"}}')
        for user, stream in zip(USERS, opened, strict=True):
            assert (await stream.notification())["message"] == user


@pytest.mark.parametrize("to", ["the main process", "all of them"])
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_all_workers_drain(start: Services, variant: Variant, to: str) -> None:
    service = start_workers(start, variant, SSE_DRAIN_SECONDS="2")
    await all_ready(service)
    ends: list[float] = []

    async def to_the_end(stream: Stream) -> None:
        events = await stream.to_the_end()
        assert [event.json["message"] for event in events[:-1]] == ["the last"]
        assert events[-1].name == "draining"
        ends.append(trio.current_time())

    async with streams(service.port, USERS) as opened, trio.open_nursery() as nursery:
        service.publish("*", message="the last")
        for stream in opened:
            nursery.start_soon(to_the_end, stream)
        if to == "all of them":  # as a service manager does
            os.killpg(service.process.pid, signal.SIGTERM)
        else:
            service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: service.get("/readyz").status == 503, "not ready")
        async with await connect(service.port) as transport:
            late = Stream(transport)
            await late.request("/sse", [], "1.1")
            assert [event.name for event in await late.to_the_end()] == ["draining"]
    assert len(ends) == len(USERS)
    assert max(ends) - min(ends) > 1
    stopped = await trio.to_thread.run_sync(service.wait)
    assert stopped.code == 0, service.log


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_when_a_worker_is_killed_all_end_and_it_shows(start: Services, variant: Variant) -> None:
    """Hypercorn ends the others; whoever supervises the service starts it anew."""
    service = start_workers(start, variant)
    await all_ready(service)
    async with streams(service.port, USERS[:30]) as opened:
        shares = streams_of(service)
        os.kill(service.workers[0], signal.SIGKILL)
        stopped = await trio.to_thread.run_sync(service.wait)
        if variant is TRIO_SSE:
            assert stopped.code == 1, service.log
        assert sum(shares.values()) == len(opened)
