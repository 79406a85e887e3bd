"""The counts of all processes, in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import redis
import trio
from structlog.testing import capture_logs

from tests.support.clusters import cluster
from tests.support.inside import settings, until
from tests.support.log import BackEnd
from tests.support.valkeys import breakable
from trio_sse.access.limits import Limits
from trio_sse.broker import census as module
from trio_sse.broker.census import Bounds, Census
from trio_sse.settings import Settings

PREFIX = "trio_sse:{notifications}:"
AWAY = (("away", 0.0), None)


def settings_of(port: int, **more: Any) -> Settings:
    return settings(redis_host="127.0.0.1", redis_port=port, limits_shared=True, **more)


class Process:
    """A process of the service, as far as counts go."""

    def __init__(self, name: str, config: Settings, bounds: Bounds) -> None:
        self.limits = Limits(config)
        self.streams = 0
        self.draining = False
        self.census = Census(config, name, self._own, bounds, self.limits)

    def _own(self) -> int | None:
        return None if self.draining else self.streams

    async def limit_for(self, user: str | None, address: str = "192.0.2.1") -> str:
        """Which limit forbids one more stream. If none does, it opens."""
        (limit, _), reservation = await self.census.ask(user, address)
        if not limit:
            assert self.limits.take_up(reservation, object())
        return limit


@asynccontextmanager
async def processes(config: Settings, count: int, bounds: Bounds) -> AsyncIterator[list[Process]]:
    async with trio.open_nursery() as nursery:
        found = [Process(f"p{number}", config, bounds) for number in range(count)]
        for process in found:
            await nursery.start(process.census.run)
        yield found
        nursery.cancel_scope.cancel()


@contextmanager
def client_of(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, db=1) as client:
        yield client


async def test_a_user_s_streams_count_over_all_processes(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 3, Bounds(per_user=5)) as all_of_them:
        for number in range(5):
            assert await all_of_them[number % 3].limit_for("ann") == ""
        for process in all_of_them:
            assert await process.limit_for("ann") == "user"
            assert await process.limit_for("bob") == ""
            assert await process.limit_for(None) == "", "of topics alone"


async def test_and_so_do_those_of_an_address_and_all_together(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 2, Bounds(total=4, per_address=2)) as (one, other):
        assert await one.limit_for("ann") == await other.limit_for("bob") == ""
        assert await one.limit_for("cyd") == await other.limit_for("dan") == "address"
        assert await one.limit_for("cyd", "a") == await other.limit_for("dan", "b") == ""
        assert await one.limit_for("eve", "c") == await other.limit_for("eve", "c") == "total"


async def test_an_address_opens_so_many_a_second_wherever_it_does(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 2, Bounds(rate=0.1)) as (one, other):
        assert await one.limit_for("ann") == ""
        for process in (one, other):
            (limit, wait), _ = await process.census.ask("ann", "192.0.2.1")
            assert limit == "rate"
            assert 5 < wait <= 10
        assert await other.limit_for("ann", "192.0.2.2") == ""


async def test_as_many_as_a_second_allows_may_come_at_once(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 2, Bounds(rate=3)) as (one, other):
        allowed = [await process.limit_for("ann") for process in (one, other, one)]
        assert allowed == ["", "", ""]
        assert await other.limit_for("ann") == "rate"


async def test_a_crowd_at_all_processes_at_once_is_counted_exactly(port: int, back_end: BackEnd) -> None:
    answers: list[str] = []

    async def come(process: Process, user: str) -> None:
        answers.append(await process.limit_for(user))

    bounds = Bounds(per_user=7)
    async with processes(settings_of(port), 3, bounds) as all_of_them, trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(come, all_of_them[number % 3], f"user{number % 4}")
        await until(lambda: len(answers) == 300)
    assert answers.count("") == 4 * 7
    assert answers.count("user") == 300 - 4 * 7


async def test_whoever_leaves_makes_room_everywhere(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 2, Bounds(per_user=1)) as (one, other):
        _, reservation = await one.census.ask("ann", "192.0.2.1")
        assert one.limits.take_up(reservation, "stream")
        assert await other.limit_for("ann") == "user"
        one.limits.end("stream")
        await until(lambda: not one.limits.changed)
        with client_of(port) as client:
            await until(lambda: not client.exists(f"{PREFIX}user:ann"))
        assert await other.limit_for("ann") == ""


@pytest.mark.parametrize("turns", range(5))
async def test_who_left_while_redis_was_asked_takes_no_place(
    port: int, back_end: BackEnd, turns: int
) -> None:
    async with processes(settings_of(port), 2, Bounds(per_user=1)) as (one, other):

        async def ask() -> None:
            _, reservation = await one.census.ask("ann", "192.0.2.1")
            one.limits.end(reservation)  # it had its answer, and was not cancelled

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with client_of(port) as client:
            await until(lambda: not one.limits.changed and not client.exists(f"{PREFIX}user:ann"))
        assert await other.limit_for("ann") == ""


async def test_who_left_just_before_the_answer_takes_no_place(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(settings_of(port), 2, Bounds(per_user=1)) as (one, other):
        take = one.census._take
        with trio.CancelScope() as leaving:

            def take_one_who_leaves(*answer: Any) -> None:
                leaving.cancel()
                take(*answer)

            monkeypatch.setattr(one.census, "_take", take_one_who_leaves)
            await one.census.ask("ann", "192.0.2.1")
        assert leaving.cancelled_caught
        with client_of(port) as client:
            await until(lambda: not one.limits.changed and not client.exists(f"{PREFIX}user:ann"))
        assert await other.limit_for("ann") == ""


async def test_a_dead_process_counts_for_nothing_after_a_while(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS", 2.0)

    async def withdraw_nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Census, "_withdraw", withdraw_nothing)
    config, bounds = settings_of(port), Bounds(total=100, per_user=1)
    async with processes(config, 1, bounds) as (one,):
        other = Process("other", config, bounds)
        async with trio.open_nursery() as nursery:
            await nursery.start(other.census.run)
            assert await other.limit_for("ann") == ""
            nursery.cancel_scope.cancel()  # as kill -9: nothing is taken back
        assert await one.limit_for("ann") == "user"
        with client_of(port) as client:
            await until(lambda: client.zscore(f"{PREFIX}living", "other") is None)
        assert await one.limit_for("ann") == ""
        with client_of(port) as client:
            assert client.hkeys(f"{PREFIX}user:ann") == [b"p0"]
            assert client.hkeys(f"{PREFIX}streams") == [b"p0"]


@pytest.mark.parametrize("drains", [True, False])
async def test_one_that_stops_counts_for_nothing_at_once(port: int, back_end: BackEnd, drains: bool) -> None:
    config, bounds = settings_of(port), Bounds(per_user=1)
    async with processes(config, 1, bounds) as (one,), trio.open_nursery() as nursery:
        other = Process("other", config, bounds)
        await nursery.start(other.census.run)
        assert await other.limit_for("ann") == ""
        assert await one.limit_for("ann") == "user"
        if drains:
            other.draining = True
            with client_of(port) as client:
                await until(lambda: client.zscore(f"{PREFIX}living", "other") is None)
            assert await other.census.ask("ann", "192.0.2.1") == (("", 0.0), None), "nobody waits"
        nursery.cancel_scope.cancel()
    with client_of(port) as client:
        assert client.zscore(f"{PREFIX}living", "other") is None


async def test_without_redis_it_says_so_and_after_it_all_is_written_anew() -> None:
    with breakable() as server:
        bounds = Bounds(total=1000, per_user=2)
        async with processes(settings_of(server.port), 2, bounds) as (one, other):
            for number in range(1200 // 3):
                assert await one.limit_for(f"user{number}", f"a{number}") == ""
            server.kill()
            assert await one.census.ask("ann", "192.0.2.1") == AWAY
            assert one.census.counts is None
            await until(lambda: not other.census._up)
            with capture_logs() as lines:
                await trio.to_thread.run_sync(server.start)  # and it has nothing
                await until(lambda: one.census._complete and other.census._complete)
            assert [line["event"] for line in lines].count("streams are counted again") == 2
            assert await other.limit_for("user7", "x") == ""
            assert await other.limit_for("user7", "x") == "user"
            assert await one.limit_for("user7", "x") == "user"


async def test_a_redis_that_does_not_answer_holds_nobody_up_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    with breakable() as server:
        async with processes(settings_of(server.port), 1, Bounds(per_user=2)) as (one,):
            server.freeze()
            with trio.fail_after(10):
                assert await one.census.ask("ann", "192.0.2.1") == AWAY
            server.thaw()
            await until(lambda: one.census._complete)
            assert await one.limit_for("ann") == ""


async def test_a_process_that_was_silent_too_long_tells_all_of_it_again(port: int, back_end: BackEnd) -> None:
    async with processes(settings_of(port), 2, Bounds(per_user=1)) as (one, other):
        for number in range(200):
            assert await one.limit_for(f"user{number}") == ""
        with client_of(port) as client:
            client.flushdb()
            await until(lambda: len(client.keys(f"{PREFIX}user:*")) == 200)
        assert await other.limit_for("user7") == "user"


async def test_counts_are_renewed_before_redis_drops_them(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 1.0)
    async with processes(settings_of(port), 1, Bounds(per_user=5)) as (one,):
        for number in range(10):
            assert await one.limit_for(f"user{number}", "192.0.2.1") == ""
        with client_of(port) as client:
            keys = [key for key in client.keys(f"{PREFIX}user:*") if client.persist(key)]
            assert len(keys) == 10
            await until(lambda: all(client.ttl(key) > 0 for key in keys))


async def test_all_know_how_many_streams_each_has(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS", 3.0)
    config = settings(redis_host="127.0.0.1", redis_port=port, rebalance=0.1)
    async with trio.open_nursery() as nursery:
        found = []
        for name, streams in (("p0", 7), ("p1", 3)):
            found.append(Census(config, name, lambda streams=streams: streams))  # type: ignore[misc]
            await nursery.start(found[-1].run)
        assert found[0].counts is None, "others have not told theirs yet"
        for one in found:
            await until(lambda one=one: one.counts == {"p0": 7, "p1": 3})  # type: ignore[misc]
        nursery.cancel_scope.cancel()


async def test_other_services_at_the_same_redis_are_not_counted(port: int, back_end: BackEnd) -> None:
    bounds = Bounds(per_user=1)
    async with (
        processes(settings_of(port), 1, bounds) as (one,),
        processes(settings_of(port, redis_channel="others"), 1, bounds) as (other,),
    ):
        assert await one.limit_for("ann") == await other.limit_for("ann") == ""


async def test_in_a_cluster_the_master_of_the_slot_is_found_also_after_a_failover() -> None:
    with cluster(3, replicas=1) as nodes:
        seeds = tuple(node.address for node in nodes.nodes)
        config = settings(redis_cluster=seeds, redis_routing="by-key", limits_shared=True)
        async with processes(config, 2, Bounds(per_user=2)) as (one, other):
            await until(lambda: one.census._complete and other.census._complete)
            assert await one.limit_for("ann") == await other.limit_for("ann") == ""
            assert await one.limit_for("ann") == await other.limit_for("ann") == "user"
            master = nodes.master_of(f"{PREFIX}living")
            await trio.to_thread.run_sync(nodes.kill_master, master)
            await until(lambda: one.census._complete and other.census._complete)
            assert await one.limit_for("ann") == await other.limit_for("ann") == "user"
            assert await one.limit_for("bob") == ""


async def test_at_a_node_that_does_not_have_the_counts_the_one_that_has_is_asked_at_once() -> None:
    with cluster(3) as nodes:
        owner = nodes.master_of(f"{PREFIX}living")
        others = tuple(node.address for node in nodes.masters if node is not owner)
        config = settings(redis_cluster=others, redis_routing="by-key", limits_shared=True)
        with capture_logs() as lines:
            async with processes(config, 1, Bounds(per_user=1)) as (one,):
                await until(lambda: one.census._complete)
                assert [await one.limit_for("ann"), await one.limit_for("ann")] == ["", "user"]
        assert lines == [], "Redis was never away"
