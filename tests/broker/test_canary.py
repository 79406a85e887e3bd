"""A message to itself: whether the way through Redis works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.support.clusters import Cluster
from tests.support.inside import settings, until
from tests.support.log import BackEnd
from tests.support.ports import free_port
from trio_sse import embedded
from trio_sse.broker import canary as module
from trio_sse.broker.canary import Canary
from trio_sse.service import Service

OFTEN = 0.05


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)


@asynccontextmanager
async def running(**values: Any) -> AsyncIterator[tuple[Service, Canary]]:
    service = Service(settings(redis_host="127.0.0.1", canary_seconds=OFTEN, **values))
    assert service._canary is not None
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            yield service, service._canary
            nursery.cancel_scope.cancel()


async def several(canary: Canary) -> None:
    """Wait for some to come back."""
    number = canary._number + 3
    await until(lambda: canary._number >= number and canary._back.is_set())


@pytest.mark.parametrize("routing", ["shared", "by-key"])
async def test_it_comes_back_and_nobody_gets_it(routing: str, port: int, back_end: BackEnd) -> None:
    async with running(redis_port=port, redis_routing=routing) as (service, canary):
        await several(canary)
        assert service.not_ready() is None
        assert service.counters.received == service.counters.rejected == service.counters.expired == 0
        assert len(service.history) == len(service.hub) == 0
        if routing == "shared":
            assert service.history.latest == 0


async def test_on_a_cluster_it_goes_by_the_master_of_its_channel(three: Cluster) -> None:
    nodes = tuple(node.address for node in three.alive)
    async with running(redis_cluster=nodes) as (service, canary):
        await several(canary)
        assert service.not_ready() is None


async def test_others_drop_it_too_with_a_canary_of_their_own_or_without(port: int, back_end: BackEnd) -> None:
    without = Service(settings(redis_host="127.0.0.1", redis_port=port))
    async with running(redis_port=port) as (_, canary), running(redis_port=port) as (other, _):
        async with trio.open_nursery() as nursery:
            await nursery.start(without.run)
            await several(canary)
            nursery.cancel_scope.cancel()
        assert other.counters.received == 0
    assert without.counters.received == without.counters.expired > 0
    assert (without.counters.rejected, without.history.latest, len(without.history)) == (0, 0, 0)


@pytest.mark.parametrize("routing", ["shared", "by-key"])
async def test_a_way_that_ends_elsewhere_is_broken_though_both_ends_look_fine(
    routing: str, port: int
) -> None:
    with embedded.valkey(free_port()) as another, capture_logs() as lines:
        at = settings(redis_host="127.0.0.1", redis_port=port, redis_routing=routing, canary_seconds=OFTEN)
        service = Service(at)
        assert service._canary is not None
        service._canary._settings = at.model_copy(update={"redis_port": another})
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            await until(lambda: service.not_ready_code == "canary_lost")
            assert service.subscriber.problem is None
            assert "has not come back" in (service.not_ready() or "")
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "the way through Redis is broken"
    ]


async def test_what_cannot_be_published_is_a_broken_way(port: int, back_end: BackEnd) -> None:
    rights = ["~*", "&notifications", "-@all", "+ping", "+subscribe", "+role"]
    execute: Any = back_end.execute_command
    execute("ACL", "SETUSER", "deaf", "on", "nopass", *rights)
    async with running(redis_port=port, redis_username="deaf", redis_password="x") as (service, _):
        await until(lambda: service.not_ready_code == "canary_lost")
        assert "nothing can be published" in (service.not_ready() or "")
        execute("ACL", "SETUSER", "deaf", "+publish")
        await until(lambda: service.not_ready() is None)
    execute("ACL", "DELUSER", "deaf")


async def test_a_log_that_is_read_is_well_and_one_that_is_not_is_broken(port: int, back_end: BackEnd) -> None:
    async with running(redis_port=port, redis_stream="events") as (service, canary):
        for number in range(5):
            back_end.add(1 + number)
            await several(canary)
        assert service.not_ready() is None
        place = service.history.last_entry
        assert place is not None
        # As one reads that is still connected to what was the master.
        service.history.read_up_to((0, 1))
        await until(lambda: service.not_ready_code == "canary_lost")
        assert "SSE_REDIS_STREAM" in (service.not_ready() or "")
        service.history.read_up_to(place)
        await until(lambda: service.not_ready() is None)


async def test_a_log_whose_reader_is_behind_and_goes_on_is_well(port: int, back_end: BackEnd) -> None:
    async with running(redis_port=port, redis_stream="events") as (service, canary):
        back_end.add(1)
        await until(lambda: service.history.last_entry not in (None, (0, 0)))
        entry, last = 0, canary._number + 5

        def goes_on() -> bool:
            nonlocal entry
            entry += 1
            service.history.read_up_to((0, entry))
            return canary._number >= last

        await until(goes_on)
        assert canary._unread is not None
        assert service.not_ready() is None


async def test_while_redis_is_away_it_says_nothing(port: int) -> None:
    at = settings(redis_host="127.0.0.1", redis_port=1, canary_seconds=OFTEN)
    service = Service(at)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        await trio.sleep(4 * OFTEN)
        assert service.not_ready_code == "redis_unreachable"
        assert service._canary is not None
        assert (service._canary.problem, service._canary._number) == (None, 0)
        nursery.cancel_scope.cancel()


def test_only_a_canary_is_one() -> None:
    canary = Canary(settings(canary_seconds=1.0), Service(settings()).history)
    assert canary.takes(b'{"trio_sse.canary":"somebody.1","topic":"trio_sse.canary","ttl":0}')
    assert not canary.takes(b'{"user_id":1,"trio_sse.canary":1}')
    assert not canary.takes(None)
