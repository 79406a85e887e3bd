"""Several workers are one service: counts, spread, and the stop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from tests.support.client import Event, Stream, connect, eventually, streaming, streams
from tests.support.process import Service, Services
from tests.support.valkeys import breakable
from tests.support.variants import COMMANDS, HYPERCORN_TRIO, TRIO_SSE, Variant

pytestmark = pytest.mark.integration

WORKERS = 2
USERS = [f"user{number % 40}" for number in range(120)]


LIMITS: dict[str, Any] = {
    "SSE_LIMITS_SHARED": "true",
    "SSE_MAX_CONNECTIONS_PER_USER": "3",
    "SSE_MAX_CONNECTIONS_PER_ADDRESS": "30",
    "SSE_TRUSTED_PROXIES": "127.0.0.0/8",
}


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
            # `connected` before it: the worker that took it had not heard of the stop yet.
            assert (await late.to_the_end())[-1].name == "draining"
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


async def how_many_open(ports: list[int], user: str, stack: contextlib.AsyncExitStack) -> int:
    """Ask for ten streams of `user` at these ports in turn. Those that open stay so until `stack` ends."""
    opened = 0
    for number in range(10):
        transport = await stack.enter_async_context(await connect(ports[number % len(ports)]))
        stream = Stream(transport)
        await stream.request(f"/sse?user_id={user}", [("Accept", "text/event-stream")], "1.1")
        first = await stream.event()
        assert first.name in ("connected", "overloaded")
        opened += first.name == "connected"
    return opened


@pytest.mark.parametrize("direct", ["true", "false"])
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_limits_hold_over_all_workers_exactly(start: Services, variant: Variant, direct: str) -> None:
    service = start_workers(start, variant, SSE_DIRECT=direct, **LIMITS)
    await all_ready(service)
    counts: list[int] = []

    async def come(user: str) -> None:
        counts.append(await how_many_open([service.port], user, stack))

    async with contextlib.AsyncExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(come, f"user{number}")
        assert counts == [3] * 4
        assert service.connections == 12
    await eventually(lambda: service.connections == 0, "all have left")
    async with contextlib.AsyncExitStack() as stack:
        await eventually_free(service, "user0", stack)


async def eventually_free(service: Service, user: str, stack: contextlib.AsyncExitStack) -> None:
    """Whoever leaves makes room everywhere, within a second or so."""
    with trio.fail_after(15):
        while not await how_many_open([service.port], user, stack):
            await trio.sleep(0.2)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_streams_of_a_node_that_has_gone_count_no_more(start: Services, how: str) -> None:
    shared = {**LIMITS, "SSE_REDIS_CHANNEL": f"nodes-{how}"}
    one, other = start.each((TRIO_SSE, HYPERCORN_TRIO), **shared)
    async with contextlib.AsyncExitStack() as stack:
        assert await how_many_open([one.port, other.port], "ann", stack) == 3
        assert await how_many_open([other.port], "ann", stack) == 0
        if how == "killed":
            one.kill()
        else:
            await trio.to_thread.run_sync(one.stop)
        with trio.fail_after(30):
            while (back := await how_many_open([other.port], "ann", stack)) == 0:
                await trio.sleep(0.2)
        assert back == 2, "the one that it had itself still counts"


@pytest.mark.parametrize("without", ["open", "closed"])
async def test_while_redis_is_away_the_setting_decides(start: Services, without: str) -> None:
    with breakable() as server:
        service = start(
            redis_port=server.port,
            **{**LIMITS, "SSE_LIMITS_WITHOUT_REDIS": without, "SSE_DRAIN_SECONDS": "0"},
        )
        async with contextlib.AsyncExitStack() as stack:
            assert await how_many_open([service.port], "ann", stack) == 3
            server.kill()
            await eventually(lambda: service.get("/readyz").status == 503, "Redis is away")
            opened = await how_many_open([service.port], "bob", stack)
            assert opened == (3 if without == "open" else 0)
            assert await how_many_open([service.port], "ann", stack) == 0, "its own it still knows"
            await trio.to_thread.run_sync(server.start)
            await eventually(lambda: service.get("/readyz").status == 200, "Redis is back", 30)
            with trio.fail_after(30):
                while await how_many_open([service.port], "cyd", stack) != 3:
                    await trio.sleep(0.2)
            assert await how_many_open([service.port], "ann", stack) == 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_node_with_too_many_sheds_some_and_nothing_is_lost(
    start: Services, valkey: int, variant: Variant
) -> None:
    """A new node comes; clients that are sent away go there, and go on where they were."""
    log = f"shedding-{variant}"
    settings: dict[str, Any] = {"SSE_REBALANCE": "0.2", "SSE_REDIS_STREAM": log, "SSE_REDIS_CHANNEL": log}
    old, new = start.each((variant, TRIO_SSE), **settings)
    moved, published = 0, 0
    done = trio.Event()
    received: list[list[int]] = []

    async def follow(number: int, opened: trio.Event) -> None:
        nonlocal moved
        got: list[int] = []
        received.append(got)
        service, last = old, ""

        def take(event: Event) -> bool:
            nonlocal last
            last = event.id or last
            assert event.name != "gap", event
            if event.name == "message":
                got.append(event.json["n"])
            return event.name == "rebalancing" or (done.is_set() and len(got) == published)

        while True:
            headers = [("Last-Event-ID", last)] if last else []
            async with streaming(service.port, f"user{number}", headers=headers) as stream:
                last = last or stream.connected.id
                opened.set()
                if (await stream.until(take))[-1].name != "rebalancing":
                    return
                assert stream.parser.retry is not None
                assert 100 <= stream.parser.retry <= 5000
            service, moved = new, moved + 1

    async with trio.open_nursery() as nursery:
        for number in range(100):
            opened = trio.Event()
            nursery.start_soon(follow, number, opened)
            await opened.wait()
        with redis.Redis(port=valkey, db=1) as client:
            began = trio.current_time()
            while not (old.connections <= 60 and trio.current_time() - began > 20):
                assert trio.current_time() - began < 75
                client.xadd(log, {"payload": f'{{"user_id":"*","n":{published}}}'})
                published += 1
                await trio.sleep(0.1)
            await eventually(lambda: old.connections + new.connections == 100, "nobody is on the way")
            assert old.connections >= 50
            assert moved <= 50
            done.set()
            client.xadd(log, {"payload": f'{{"user_id":"*","n":{published}}}'})
            published += 1
    assert all(got == list(range(published)) for got in received)
