"""All partitions together: what a service writes, reads and says, with a real Redis and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.support.inside import Client, opened, settings, until
from tests.support.log import DATABASE, BackEnd
from tests.support.ports import free_port
from tests.support.valkeys import breakable
from trio_sse.broker.presence_records import Here
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.targets import topic
from trio_sse.service import Service
from trio_sse.settings import SettingsError


@asynccontextmanager
async def running(port: int, **more: Any) -> AsyncIterator[Service]:
    chosen = {"presence": True, "presence_grace_seconds": 0, "redis_main_db": DATABASE, **more}
    async with trio.open_nursery() as nursery:
        service = Service(settings(redis_port=port, **chosen))
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def here(service: Service, *targets: str, ids: int = 0) -> dict[str, Here]:
    assert service.presence is not None
    return await service.presence.ask(targets, ids)


async def until_here(service: Service, target: str, streams: int) -> None:
    with trio.fail_after(10):
        while (await here(service, target))[target].streams != streams:
            await trio.sleep(0.02)


async def test_users_of_all_partitions_are_written_and_read(port: int, back_end: BackEnd) -> None:
    names = [f"user-{number}" for number in range(100)]
    async with running(port) as one, running(port) as other:
        streams = [opened(one, name) for name in names]
        for stream in streams:
            Client(stream)
        for name in names:
            await until_here(other, name, 1)
        found = await here(other, *names, "nobody", topic("news"))
        assert {name: found[name].streams for name in names} == dict.fromkeys(names, 1)
        assert found["nobody"].streams == found[topic("news")].streams == -1
        for stream in streams:
            one.release(stream)
        await until_here(other, names[0], -1)


async def test_when_a_link_is_lost_all_that_it_wrote_is_written_again(port: int, back_end: BackEnd) -> None:
    names = [f"user-{number}" for number in range(40)]
    async with running(port) as service:
        for name in names:
            Client(opened(service, name))
        for name in names:
            await until_here(service, name, 1)
        written = service.counters.presence_writes
        for key in back_end.scan_iter("trio_sse:presence:*:who"):  # as a failover may lose it
            back_end.delete(key)
        back_end.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(UnavailableError):
            await here(service, "ann")
        Client(opened(service, "late"))
        for name in names:
            await until_here(service, name, 1)
        assert service.counters.presence_writes == written + len(names) + 1


async def test_the_keys_of_another_channel_are_other_keys(port: int, back_end: BackEnd) -> None:
    async with running(port, redis_channel="a") as one, running(port, redis_channel="b") as other:
        Client(opened(one, "ann"))
        await until_here(one, "ann", 1)
        await until_here(other, "ann", -1)


async def test_a_stop_is_told_to_redis_at_once(port: int, back_end: BackEnd) -> None:
    async with running(port, presence_grace_seconds=0) as stays:
        async with running(port, presence_grace_seconds=0) as stops:
            Client(opened(stops, "ann"))
            await until_here(stays, "ann", 1)
        await until_here(stays, "ann", -1)


async def test_without_redis_a_question_is_answered_with_what_is_wrong() -> None:
    port = free_port()
    async with running(port) as service:
        Client(opened(service, "ann"))
        with pytest.raises(UnavailableError, match=str(port)):
            await here(service, "ann")


async def test_before_it_runs_a_question_is_refused() -> None:
    service = Service(settings(presence=True))
    with pytest.raises(UnavailableError, match="not connected"):
        await here(service, "ann")


async def test_when_redis_comes_late_all_is_written() -> None:
    with breakable(started=False) as valkey:
        async with running(valkey.port, presence_topic="who") as service:
            client = Client(opened(service, "ann"))
            assert client.names
            valkey.start()
            await until(lambda: service.subscriber.problem is None)
            await until_here(service, "ann", 1)
            await until(lambda: service.counters.presence_online == 1)


def test_without_the_setting_there_is_nothing_of_it() -> None:
    service = Service(settings())
    assert service.presence is None
    assert not service.hub.stream_listeners


def test_a_topic_that_is_none_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="SSE_PRESENCE_TOPIC"):
        Service(settings(presence=True, presence_topic="a\nb"))
