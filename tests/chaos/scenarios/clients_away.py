"""Clients that do not read, that stay away, whose network is cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import trio

from tests.chaos import netns
from tests.chaos.bench import Bench
from tests.chaos.publisher import Kind, Publisher
from tests.chaos.scenario import scenario

PADDING, RATE = 16_000, 700
"""Bytes, and messages each second for all users together: soon more than buffers hold."""
SMALL_BUFFER = 65_536
SECONDS = 3
"""How long slow clients do not read."""


async def _slow(bench: Bench, settings: Mapping[str, str] = {}, *, kind: Callable[[], Kind] = dict) -> None:
    """Some clients stop reading, again and again, while there is far more for them than any buffer holds."""
    bench.redis = await bench.start_redis()
    service = await bench.start_service(settings)
    bench.open_ledger(6)
    await bench.start_clients(bench.to(service.port), bench.users[2:])
    slow = await bench.start_clients(bench.to(service.port, receive_buffer=SMALL_BUFFER), bench.users[:2])
    publisher = Publisher(bench.ledger, bench.redis.where)
    publisher.kind = kind
    await bench.start_publisher(publisher, RATE)
    for _ in range(1 if bench.quick else 4):
        for client in slow:
            client.stop_reading()
        publisher.padding = PADDING
        await trio.sleep(SECONDS)
        publisher.padding = 0
        for client in slow:
            client.read_on()
        await bench.flows_again()


@scenario(f"clients that do not read for {SECONDS} s", "channel", "stream", stream_gaps=True)
async def slow_gap(bench: Bench) -> None:
    await _slow(bench)
    assert bench.count().covered, "buffers were to be full"


@scenario("the same with SSE_SLOW_CLIENT=disconnect, SSE_HISTORY_BYTES=268435456", "channel", "stream")
async def slow_disconnect(bench: Bench) -> None:
    await _slow(bench, {"SSE_SLOW_CLIENT": "disconnect", "SSE_HISTORY_BYTES": "268435456"})
    assert any(client.connections > 1 for client in bench.clients), "some were to be disconnected"


@scenario("the same with SSE_WRITE_TIMEOUT_SECONDS=1", "channel", "stream", stream_gaps=True)
async def slow_cut_off(bench: Bench) -> None:
    await _slow(bench, {"SSE_WRITE_TIMEOUT_SECONDS": "1"})
    assert any(client.connections > 1 for client in bench.clients), "some were to be cut off"


def _state_or_not() -> Kind:
    """Every other message is an event, the others are state, or are over soon."""
    kinds: list[Kind] = [{}, {}, {"state": random.choice("abc")}, {"ttl": SECONDS / 6}]
    return random.choice(kinds)


@scenario("the same, half of the messages with a `key` or a `ttl`", "channel", "stream", stream_gaps=True)
async def slow_state(bench: Bench) -> None:
    await _slow(bench, kind=_state_or_not)
    count = bench.count()
    assert count.superseded, "some were to be superseded"
    assert count.expired, "some were to expire"


@scenario("clients away for longer than anything is kept", "channel", "stream", stream_gaps=True)
async def away_too_long(bench: Bench) -> None:
    await bench.assemble({"SSE_HISTORY_MESSAGES": "50"})
    bench.publisher.max_length = 100
    await bench.traffic(0.5)
    away = bench.some_clients()
    for client in away:
        client.go_away()
    await trio.sleep(2)
    for client in away:
        client.come_back()
    await bench.flows_again()
    assert bench.count(away).covered, "they were to miss something"


@scenario("clients away for longer than memory keeps, but not the stream", "stream")
async def away_for_a_while(bench: Bench) -> None:
    await bench.assemble({"SSE_HISTORY_MESSAGES": "50"})
    for _ in range(1 if bench.quick else 5):
        await bench.traffic(0.5)
        away = bench.some_clients()
        for client in away:
            client.go_away()
        await trio.sleep(2)
        for client in away:
            client.come_back()
        await bench.flows_again()


@scenario("the network of some clients cut for 1 s and for 6 s", "channel", "stream")
async def network_cut(bench: Bench) -> None:
    cable = bench.until_closed(netns.namespace())
    bench.redis = await bench.start_redis()
    service = await bench.start_service(
        {"SSE_HOST": "0.0.0.0", "SSE_HEARTBEAT_SECONDS": "0.5", "SSE_WRITE_TIMEOUT_SECONDS": "1"}
    )
    bench.open_ledger(10)
    near = await bench.start_clients(bench.to(service.port), bench.users[:5])
    far = await bench.start_clients(cable.to(service.port), bench.users[5:])
    await bench.start_publisher(Publisher(bench.ledger, bench.redis.where), 200)
    for seconds in (1, 6) * (1 if bench.quick else 3):
        await trio.sleep(0.5)
        cable.cut()
        before = [client.connections for client in near]
        await trio.sleep(seconds)
        assert before == [client.connections for client in near], "the others were to notice nothing"
        cable.mend()
        await bench.flows_again()
    assert any(client.connections > 1 for client in far), "some were to connect again"
