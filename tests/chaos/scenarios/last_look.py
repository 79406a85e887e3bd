"""Everything at once: connections cut at random while Redis is killed again and again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import trio

from tests.chaos import foreign
from tests.chaos.bench import Bench, Source
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import Publisher
from tests.chaos.scenario import scenario
from tests.chaos.witness import Witness

USERS = 200
AT_ONCE, BACKLOG = 5, 50
"""Published at a time, and on their way at most."""
OURS = "a client of our own"


async def _last_look(bench: Bench, client: str, settings: Mapping[str, str]) -> None:
    messages, kills = (3_000, 2) if bench.quick else (100_000, 10)
    bench.redis = await bench.start_redis()
    service = await bench.start_service(settings)
    proxy = Proxy(service.port, mean_bytes=2_000 if bench.quick else 4_000)
    await bench.nursery.start(proxy.run)
    bench.open_ledger(USERS)
    if client == OURS:
        await bench.start_clients(bench.to(proxy.port))
    else:
        await foreign.start(bench, client, proxy.port)
    near = await bench.start_clients(bench.to(service.port), bench.users[:3], twice=0)
    await bench.start_publisher(Publisher(bench.ledger, bench.redis.where), 0, near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_kill_redis, bench, kills, messages // (kills + 1), near)
        for number in range(messages):
            bench.publisher.put(bench.somebody(), random.choice(bench.lanes))
            if number % AT_ONCE == AT_ONCE - 1:
                await trio.sleep(0.002)
                while bench.publisher.backlog > BACKLOG:
                    await trio.sleep(0.002)
    while bench.publisher.backlog:
        await trio.sleep(0.01)
    proxy.cutting = False
    assert bench.ledger.accepted >= messages
    assert proxy.cuts > USERS // 4


async def _kill_redis(bench: Bench, kills: int, every: int, watched: Sequence[Witness]) -> None:
    """So many times, each time after so many more messages, with others on their way."""
    for kill in range(1, kills + 1):
        while bench.ledger.accepted < kill * every:
            await trio.sleep(random.uniform(0.001, 0.005))
        await bench.redis.kill()
        await trio.sleep(random.uniform(0.1, 0.5))
        await bench.redis.start()
        await bench.flows_again(watched)


def _add(fault: str, name: str, client: str, *sources: Source, **settings: str) -> None:
    async def play(bench: Bench) -> None:
        await _last_look(bench, client, settings)

    play.__name__ = name
    scenario(fault, *sources, quick=client == OURS, seconds=900)(play)


CUT = "connections cut at random, Redis killed again and again"
_add(CUT, "last_look", OURS, "channel", "stream", "both", "by key", "partitions")
_add(
    f"{CUT}; SSE_HISTORY_MESSAGES=50",
    "last_look_without_memory",
    OURS,
    "channel",
    "stream",
    SSE_HISTORY_MESSAGES="50",
)
# These wait as long as the service asks them to, and then look for more than SSE_REPLAY_LIMIT is by default.
FAR = {"SSE_REPLAY_LIMIT": "100000"}
_add(f"{CUT}; Node's `eventsource`", "last_look_eventsource", "eventsource", "channel", "stream", **FAR)
_add(
    f"{CUT}; Node's `eventsource-parser`",
    "last_look_parser",
    "eventsource-parser",
    "channel",
    "stream",
    **FAR,
)
_add(f"{CUT}; Chromium", "last_look_chromium", "chromium", "channel", "stream", **FAR)
