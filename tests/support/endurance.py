"""Does a service hold no more after thousands of clients than before?

`python -m tests.support.endurance 1800` looks for half an hour.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.support.canary import THEIR_OWN, LogReader
from tests.support.churn import Churn
from tests.support.client import eventually, streaming, streams
from tests.support.flow import Flow
from tests.support.hostile import GET_HEALTH, GET_SSE, Attack, launch
from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.process_counts import CountedVariant, Counts, Inside, Memory
from tests.support.variants import HYPERCORN, TRIO_SSE, Variant
from trio_sse import embedded

CROWD = 60
IDLE_STREAMS = 100
HISTORY_SECONDS = 2.0
SETTINGS = {
    "SSE_HEARTBEAT_SECONDS": "0.25",
    "SSE_HISTORY_SECONDS": f"{HISTORY_SECONDS}",
    "SSE_HISTORY_MESSAGES": "400",
    "SSE_HISTORY_BYTES": "1000000",
    "SSE_REPLAY_LIMIT": "1000",
    "SSE_WRITE_TIMEOUT_SECONDS": "1",
    "SSE_DRAIN_SECONDS": "0",
}
"""Two seconds of churn reach every bound of the history; two seconds later all of it is empty."""

MAX_SLOPE = 0.1
MAX_GROWTH = 50.0
MAX_IDLE_GROWTH = 1.0
"""Megabytes, per second and in all, during the churn, and in all while there is nothing but heartbeats."""

ALLOCATOR_NOISE = 25.0
"""Megabytes that malloc takes and gives back while as much is in use. A slope in less than that is none."""


@dataclass(frozen=True)
class Plan:
    """Seconds of each part."""

    warm_up: float
    heartbeats: float
    churn: float


SHORT = Plan(warm_up=4, heartbeats=3, churn=9)


def counted(variant: Variant) -> CountedVariant:
    return CountedVariant(variant.name, variant.command, variant.environment)


class Endurance:
    """One service that goes through it. Its settings are SETTINGS, COUNTS_DIRECTORY and a stream."""

    def __init__(
        self, name: str, service: Service, redis_port: int, stream: str, directory: Path, log: LogReader
    ) -> None:
        self.inside = Inside(directory)
        self._name = name
        self._service = service
        self._redis_port = redis_port
        self._stream = stream
        self._log = log
        self._seed = 0

    async def run(self, plan: Plan) -> None:
        """All parts, each with its assertions. Prints the figures."""
        fresh = await self._fresh()
        async with self._churn():
            await trio.sleep(plan.warm_up)
        before = await self._quiet(fresh)
        idle_blocks, idle = await self._heartbeats(plan.heartbeats)
        memory = Memory()
        async with self._churn() as churn, trio.open_nursery() as nursery:
            nursery.start_soon(memory.watch, self.inside, min(1.0, plan.churn / 100))
            for _ in range(9):
                await trio.sleep(plan.churn / 10)
                print(self._progress(churn, memory), flush=True)
            await trio.sleep(plan.churn / 10)
            nursery.cancel_scope.cancel()
        after = await self._quiet(fresh)
        flow = churn.flow
        figures = (
            f"{self._name}: {churn.clients} clients and {flow.published} messages in {plan.churn:g} s; "
            f"memory {memory.growth:+.2f} MB, {memory.slope:+.4f} MB/s, peak {memory.peak:.1f} MB; "
            f"blocks {before.blocks} {after.blocks - before.blocks:+}; "
            f"canary {flow.canary.seen}, the returning one {flow.returning.seen} "
            f"and {flow.returning.gaps} gaps; "
            f"heartbeats alone: {idle.growth:+.2f} MB, {idle_blocks:+} blocks; "
            f"descriptors {after.named['descriptors']}, tasks {after.named['tasks']}"
        )
        print(f"{figures}\n{dict(churn.kinds)}\n{after.totals}\n{before.grown(after, 10)}", flush=True)
        errors = Counter(self._log.contained())
        print(f"connections that ended by an error: {dict(errors)}", flush=True)
        assert all(map(THEIR_OWN.fullmatch, errors)), errors
        assert not fresh.named["Connection objects"]
        assert not fresh.more(after), f"not as before: {fresh.more(after)}; {figures}"
        # Cancelled timers of asyncio stay until their time, which is more than a short form waits for.
        grown = before.grown(after, max(1000, churn.clients / 50))
        assert not grown, f"more of {grown}; {figures}"
        assert after.blocks - before.blocks < max(10_000, churn.clients / 10), figures
        assert memory.slope < MAX_SLOPE or memory.growth < ALLOCATOR_NOISE, figures
        assert memory.growth < MAX_GROWTH, figures
        assert idle.growth < MAX_IDLE_GROWTH, figures
        assert idle_blocks < 1000, figures

    @contextlib.asynccontextmanager
    async def _churn(self) -> AsyncIterator[Churn]:
        self._seed += 1
        chance = random.Random(self._seed)
        port, channel = self._service.port, self._service.channel
        churn = Churn(port, Flow(port, self._redis_port, channel, self._stream, chance), self._seed, chance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(churn.run, CROWD)
            yield churn
            nursery.cancel_scope.cancel()

    async def _fresh(self) -> Counts:
        """What there is when each road has been gone once, and nothing changes any more."""
        await launch(self._service.port, Attack((GET_HEALTH + GET_SSE,), "read"))
        async with streaming(self._service.port, headers=[("last-event-id", "1-0")]):
            pass
        await eventually(lambda: self._service.connections == 0, "all have left")
        return await self.inside.settled()

    async def _quiet(self, fresh: Counts) -> Counts:
        """What there is when all have left and all is forgotten. That it is no more than at first is waited
        for: Hypercorn keeps what is no stream for up to five seconds."""
        await eventually(lambda: self._service.connections == 0, "all have left")
        await trio.sleep(HISTORY_SECONDS)
        return await self.inside.no_more_than(fresh)

    async def _heartbeats(self, seconds: float) -> tuple[int, Memory]:
        """Streams that get nothing but heartbeats, and read them. How many blocks more, and the memory."""
        memory = Memory()
        async with (
            streams(self._service.port, ["idle"] * IDLE_STREAMS) as opened,
            trio.open_nursery() as nursery,
        ):
            for stream in opened:
                nursery.start_soon(stream.to_the_end)
            await trio.sleep(0.5)
            before = await self.inside.count()
            nursery.start_soon(memory.watch, self.inside, min(1.0, seconds / 50))
            await trio.sleep(seconds)
            after = await self.inside.count()
            nursery.cancel_scope.cancel()
        await eventually(lambda: self._service.connections == 0, "all have left")
        return after.blocks - before.blocks, memory

    def _progress(self, churn: Churn, memory: Memory) -> str:
        return (
            f"{self._name}: {churn.clients} clients, {self.inside.megabytes:.1f} MB ({memory.growth:+.2f}), "
            f"{self.inside.descriptors} descriptors, canary {churn.flow.canary.seen}, "
            f"returning {churn.flow.returning.seen} with {churn.flow.returning.gaps} gaps"
        )


async def endure(
    services: Services, redis_port: int, directory: Path, variants: list[Variant], plan: Plan
) -> None:
    """Each of `variants` goes through `plan`, side by side. Raises what failed when all are through."""
    failures: list[Exception] = []

    async def one(variant: Variant) -> None:
        counts = directory / variant.name
        counts.mkdir()
        stream = f"endurance-{free_port()}-{variant.name}"
        settings: dict[str, Any] = {**SETTINGS, "SSE_REDIS_STREAM": stream, "COUNTS_DIRECTORY": str(counts)}
        service = services(counted(variant), redis_port=redis_port, **settings)
        try:
            with contextlib.closing(LogReader(service)) as log:
                await Endurance(variant.name, service, redis_port, stream, counts, log).run(plan)
            stopped = await trio.to_thread.run_sync(service.stop)
            assert stopped.code == 0
        except (AssertionError, ExceptionGroup) as error:  # the other may go on
            print(f"the end of the log of {variant}:\n{service.log[-10_000:]}", flush=True)
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for variant in variants:
            nursery.start_soon(one, variant)
    if failures:
        raise ExceptionGroup("not endured", failures)


async def main(seconds: float) -> None:
    """Both variants for so long, with a line of figures now and then."""
    warm_up = min(60.0, seconds / 5)
    plan = Plan(warm_up=warm_up, heartbeats=warm_up, churn=seconds - 2 * warm_up)

    with tempfile.TemporaryDirectory() as name, embedded.valkey(free_port()) as redis_port:
        services = Services(Path(name), redis_port)
        with contextlib.closing(services):
            await endure(services, redis_port, Path(name), BOTH, plan)


BOTH: list[Variant] = [TRIO_SSE, HYPERCORN]

if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]))
