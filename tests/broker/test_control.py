"""Processes that ask each other, through a real Redis."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis
import trio
import trio_asyncio
from structlog.testing import capture_logs

from tests.support.clusters import Cluster
from tests.support.inside import settings, until
from tests.support.log import BackEnd
from tests.support.valkeys import breakable
from trio_sse.broker import control as module
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.control import Control
from trio_sse.broker.envelopes import Envelopes
from trio_sse.broker.topology import map_of
from trio_sse.settings import Settings

TOKEN = "an-operators-token-0123"


def settings_of(port: int, **more: Any) -> Settings:
    return settings(**{"redis_host": "127.0.0.1", "redis_port": port, "admin_token": TOKEN, **more})


class Process:
    """One that answers with its name, and what it was asked."""

    def __init__(self, name: str, config: Settings, cluster: ClusterMap | None = None) -> None:
        self.name = name
        self.obeyed: list[tuple[str, Any]] = []
        self.beats = self.losses = 0
        self.silent = False
        self.control = Control(config, name, cluster, self._obey, self._beside, self._lost)

    async def _obey(self, kind: str, what: msgspec.Raw) -> object:
        self.obeyed.append((kind, msgspec.json.decode(what)))
        if self.silent:
            await trio.sleep_forever()
        return [self.name, kind]

    async def _beside(self) -> None:
        self.beats += 1

    def _lost(self) -> None:
        self.losses += 1

    async def answers(self, seconds: float = 5) -> list[list[str]]:
        heard = await self.control.ask("which", {"n": 1}, seconds)
        assert (heard.problem, heard.missing) == (None, [])
        return sorted(msgspec.json.decode(answer) for _, answer in heard.answers)


@asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for process in processes:
            await nursery.start(process.control.run)
        yield
        nursery.cancel_scope.cancel()


async def test_all_others_answer_and_nobody_asks_itself(port: int, back_end: BackEnd) -> None:
    processes = [Process(name, settings_of(port)) for name in ("a", "b", "c")]
    one, *others = processes
    async with running(*processes):
        assert await one.answers() == [["b", "which"], ["c", "which"]]
        assert [process.obeyed for process in others] == [[("which", {"n": 1})]] * 2
        assert one.obeyed == []
        assert all(process.beats for process in processes)


async def test_one_that_is_alone_has_its_answer_at_once(port: int, back_end: BackEnd) -> None:
    one = Process("a", settings_of(port))
    async with running(one):
        with trio.fail_after(1):
            assert await one.answers() == []


async def test_one_that_does_not_answer_is_named(port: int, back_end: BackEnd) -> None:
    one, quick, silent = (Process(name, settings_of(port)) for name in ("a", "b", "c"))
    silent.silent = True
    async with running(one, quick, silent):
        heard = await one.control.ask("which", None, 0.3)
        assert [node.process for node in heard.missing] == ["c"]
        assert [node.process for node, _ in heard.answers] == ["b"]


async def test_an_answer_of_one_that_was_not_known_of_is_no_answer(port: int, back_end: BackEnd) -> None:
    one, silent, unknown = (Process(name, settings_of(port)) for name in ("a", "b", "c"))
    silent.silent = True
    async with running(one, silent, unknown):
        back_end.zrem(f"{one.control.keys}nodes", msgspec.json.encode(unknown.control.me))
        heard = await one.control.ask("which", None, 0.5)
        assert unknown.obeyed == [("which", None)]
        assert (heard.answers, [node.process for node in heard.missing]) == ([], ["b"])


async def test_one_that_has_enough_to_do_takes_no_further_command(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    one, silent = (Process(name, settings_of(port)) for name in ("a", "b"))
    silent.silent = True
    async with running(one, silent):
        for _ in range(2):
            heard = await one.control.ask("which", None, 0.3)
            assert [node.process for node in heard.missing] == ["b"]
        assert len(silent.obeyed) == 1


async def test_redis_keeps_nothing_of_those_who_are_gone_for_long(port: int, back_end: BackEnd) -> None:
    one = Process("a", settings_of(port))
    nodes = f"{one.control.keys}nodes"
    back_end.zadd(nodes, {"gone": 1.0})
    async with running(one):
        assert back_end.zrange(nodes, 0, -1) == [msgspec.json.encode(one.control.me)]
        assert 0 < back_end.ttl(nodes) <= 10 * module.LIFE_SECONDS


async def test_one_that_has_stopped_is_not_waited_for(port: int, back_end: BackEnd) -> None:
    one, other = (Process(name, settings_of(port)) for name in ("a", "b"))
    async with running(one):
        async with running(other):
            assert await one.answers() == [["b", "which"]]
        assert await one.answers() == []


async def test_one_that_was_killed_is_named_until_it_counts_as_gone(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFE_SECONDS", 0.5)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    one = Process("a", settings_of(port))
    member = msgspec.json.encode({"process": "b", "host": "h", "pid": 7})
    async with running(one):
        redis.Redis(port=port, db=1).zadd(one.control._nodes, {member: one.control.now() + 0.5})
        heard = await one.control.ask("which", None, 0.1)
        assert [(node.process, node.pid) for node in heard.missing] == [("b", 7)]
        with trio.fail_after(5):
            while (await one.control.ask("which", None, 0.1)).missing:
                await trio.sleep(0.05)


async def test_a_command_of_somebody_who_may_only_publish_is_not_obeyed(port: int, back_end: BackEnd) -> None:
    one, other = (Process(name, settings_of(port)) for name in ("a", "b"))
    forger = Envelopes("another token of theirs", "a", one.control.now)
    with capture_logs() as logs:
        async with running(one, other):
            for payload in (forger.command("which", None)[1], b'{"kind":"end","what":{"user":"ann"}}', b""):
                back_end.publish("notifications:control", payload)
            assert await one.answers() == [["b", "which"]]  # after all that was published before
            assert other.obeyed == [("which", {"n": 1})]
    warned = [line for line in logs if line["event"] == "a command is not obeyed"]
    assert len(warned) == 2, "one line in each process, however many there are"
    assert "SSE_ADMIN_TOKEN" in warned[0]["problem"]


async def test_a_command_that_is_sent_again_by_somebody_who_heard_it_is_not_obeyed(
    port: int, back_end: BackEnd
) -> None:
    one, other = (Process(name, settings_of(port)) for name in ("a", "b"))
    with redis.Redis(port=port) as client, client.pubsub() as pubsub:
        pubsub.subscribe("notifications:control")
        pubsub.get_message(timeout=1)
        async with running(one, other):
            await one.answers()
            heard = pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            assert heard is not None
            back_end.publish("notifications:control", heard["data"])
            await one.answers()
            assert len(other.obeyed) == 2


async def test_while_redis_is_away_nobody_is_asked_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    with breakable() as valkey:
        one, other = (Process(name, settings_of(valkey.port)) for name in ("a", "b"))
        async with running(one, other):
            assert await one.answers() == [["b", "which"]]
            valkey.kill()
            await until(lambda: one.losses)
            heard = await one.control.ask("which", None)
            assert heard.answers == []
            assert heard.problem is not None
            assert "REDIS_HOST" in heard.problem
            valkey.start()
            with trio.fail_after(20):
                while (await one.control.ask("which", None)).answers == []:
                    await trio.sleep(0.05)


async def test_where_redis_is_not_there_it_starts_all_the_same() -> None:
    with breakable(started=False) as valkey:
        one = Process("a", settings_of(valkey.port))
        assert (await one.control.ask("which", None)).problem == "Redis was not tried yet"
        async with running(one):
            assert "REDIS_HOST" in str((await one.control.ask("which", None)).problem)


async def test_at_a_cluster_too(three: Cluster) -> None:
    nodes = ",".join(node.address for node in three.masters)
    config = settings(redis_cluster=nodes, redis_routing="by-key", admin_token=TOKEN)
    async with trio_asyncio.open_loop():
        cluster = await trio_asyncio.aio_as_trio(map_of)(config)
    processes = [Process(name, config, cluster) for name in ("a", "b", "c")]
    async with running(*processes):  # each begins at another master
        assert await processes[0].answers() == [["b", "which"], ["c", "which"]]


async def test_all_go_by_the_clock_of_redis(
    port: int, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Process("a", settings_of(port))
    async with running(one):
        await one.answers()
    monkeypatch.setattr(module, "time", _LateClock)
    late = Process("b", settings_of(port))
    assert late.control.now() < time.time() - 3000
    async with running(late):
        assert abs(late.control.now() - time.time()) < 60


class _LateClock:
    @staticmethod
    def time() -> float:
        return time.time() - 3600
