"""From a real channel, and from a real log, to the channels by key of a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import redis

from tests.support.clusters import Cluster, cluster
from tests.support.inside import PATIENCE_SECONDS, settings
from tests.support.ports import free_port
from tests.support.routed import Heard, at, hearing, in_asyncio, until
from tests.support.valkeys import breakable
from trio_sse.broker import bridge as module
from trio_sse.broker import consumer_group
from trio_sse.broker.bridge import GROUP, Bridge
from trio_sse.broker.consumer_group import ConsumerGroup
from trio_sse.broker.post import Post
from trio_sse.commands.keyed import post_of
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.targets import topic
from trio_sse.settings import Settings


class Way:
    """A shared channel and a log of one Redis, and the channels by key of the same or of another."""

    def __init__(self, port: int, to: int | None = None, nodes: Cluster | None = None) -> None:
        name = secrets.token_hex(4)
        self.port = port
        self.channel, self.log, self.prefix = f"from-{name}", f"log-{name}", f"to-{name}"
        self.back_end = redis.Redis(port=port)
        self.settings: Settings = at(to or port, redis_routing="by-key", redis_channel=self.prefix)
        if nodes is not None:
            addresses = ",".join(node.address for node in nodes.masters)
            self.settings = settings(redis_cluster=addresses, redis_channel=self.prefix)

    def bridge(self, *, log: bool, name: str = "a") -> Bridge:
        source = at(
            self.port, redis_channel=self.channel, redis_stream=self.log if log else None, redis_main_db=0
        )
        return Bridge(source, self.settings, partial(post_of, self.settings), name)

    @contextlib.asynccontextmanager
    async def bridged(self, *, log: bool, name: str = "a") -> AsyncIterator[Bridge]:
        bridge = self.bridge(log=log, name=name)
        task = asyncio.ensure_future(bridge.run())
        try:
            await until(lambda: bridge._attempts.succeeded or task.done())
            yield bridge
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def tell(self, number: int, **target: Any) -> None:
        self.back_end.publish(self.channel, message(number, **target))

    def add(self, number: int, **target: Any) -> str:
        entry = self.back_end.xadd(self.log, {"payload": message(number, **target)})
        assert isinstance(entry, bytes)
        return entry.decode()

    def pending(self) -> int:
        found: Any = self.back_end.xpending(self.log, GROUP)
        return int(found["pending"])


async def ended(task: asyncio.Task[None]) -> None:
    """By itself, as if cancelled: a deadline of the test that cancels whoever waits looks the same."""
    await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
    assert task.cancelled()


def message(number: int, **target: Any) -> str:
    return json.dumps({**target, "n": number})


@pytest.fixture
def way(valkey: int) -> Iterator[Way]:
    found = Way(valkey)
    yield found
    found.back_end.close()


@pytest.fixture(params=[False, True], ids=["channel", "log"])
def log(request: pytest.FixtureRequest) -> bool:
    from_log: bool = request.param
    return from_log


def test_each_message_goes_to_the_channels_of_those_it_is_for(way: Way, log: bool) -> None:
    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard, way.bridged(log=log) as bridge:
            send = way.add if log else way.tell
            send(1, user_id=42)
            send(2, topic="orders/17")
            send(3, user_id="*")
            send(4, user_id=["ann", "bob"], topic="news")
            found = await heard.take(6)
            assert [(channel.removeprefix(f"{way.prefix}:"), one["n"]) for channel, one in found] == [
                ("user:42", 1),
                ("topic:orders/17", 2),
                ("all", 3),
                ("user:ann", 4),
                ("user:bob", 4),
                ("topic:news", 4),
            ]
            copies = [one.get("trio_sse.copy") for _, one in found]
            assert len({*copies[3:]}) == 1
            assert copies[3]
            assert log or copies[:3] == [None] * 3
            assert all("created_at" in one for _, one in found)
            await until(lambda: bridge.published == 6)

    in_asyncio(test)


def test_when_it_begins_all_streams_are_told_that_messages_may_be_missing(way: Way, log: bool) -> None:
    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard:
            async with way.bridged(log=log):
                await heard.gap()
            async with way.bridged(log=log):
                if log:  # what came meanwhile is there
                    way.add(1, user_id=1)
                    await heard.take(1)
                    assert heard.gaps == 1
                else:
                    await heard.gap(2)

    in_asyncio(test)


def test_what_cannot_be_delivered_is_counted_and_the_rest_goes_on(way: Way, log: bool) -> None:
    bad = [
        "",
        "no json",
        "[]",
        '{"n":1}',
        '{"user_id":[]}',
        "\xff",
        json.dumps({"user_id": 1, "x": "y" * 70_000}),
    ]

    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard, way.bridged(log=log) as bridge:
            for one in bad:
                payload = one.encode("latin-1")
                if log:
                    way.back_end.xadd(way.log, {"payload": payload})
                else:
                    way.back_end.publish(way.channel, payload)
            if log:
                way.back_end.xadd(way.log, {"message": "x"})
                way.add(7, user_id=1)
            else:
                way.tell(7, user_id=1)
            await heard.take(1)
            assert heard.numbers == [7]
            assert bridge.skipped == len(bad) + log
            if log:
                await until(lambda: way.pending() == 0)

    in_asyncio(test)


def test_messages_of_one_user_stay_in_order(way: Way, log: bool) -> None:
    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard, way.bridged(log=log):
            pipeline = way.back_end.pipeline(transaction=False)
            for number in range(2_000):
                text = message(number, user_id=["ann", "bob"][number % 2])
                if log:
                    pipeline.xadd(way.log, {"payload": text})
                else:
                    pipeline.publish(way.channel, text)
            pipeline.execute()
            await heard.take(2_000)
            assert heard.numbers == [*range(2_000)]

    in_asyncio(test)


def test_of_an_entry_the_time_is_that_in_its_id(way: Way) -> None:
    """A bridge may have been away when the entry came: `created_at` and `ttl` count from then."""

    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard, way.bridged(log=True) as bridge:
            now = time.time_ns() // 1_000_000
            early = f"{now - 60_000}-0"
            for number, ttl in ((1, 30), (2, 90)):
                payload = json.dumps({"user_id": 1, "n": number, "ttl": ttl})
                way.back_end.xadd(way.log, {"payload": payload}, id=early[:-1] + str(number))
            ((_, found),) = await heard.take(1)
            assert found["n"] == 2
            assert found["expires_at"] == pytest.approx((now + 30_000) / 1000)
            assert found["created_at"][:19] == time.strftime(
                "%Y-%m-%dT%H:%M:%S", time.gmtime(now / 1000 - 60)
            )
            await until(lambda: bridge.published == 1)

    # The group is made behind what is there, and the ids of this log lie in the past.
    way.back_end.xadd(way.log, {"payload": message(0, user_id=1)}, id="1-1")
    in_asyncio(test)


def test_several_share_a_log(way: Way) -> None:
    async def test() -> None:
        async with (
            hearing(way.port, way.prefix) as heard,
            way.bridged(log=True, name="a") as first,
            way.bridged(log=True, name="b") as second,
        ):
            for number in range(400):
                way.add(number, user_id=number % 7)
                if number % 20 == 0:
                    await heard.take(number // 2)
            await heard.take(400)
            assert sorted(heard.numbers) == [*range(400)]
            assert first.published
            assert second.published

    in_asyncio(test)


def test_what_one_had_taken_when_it_died_is_published_by_another_as_the_same_copy(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_group, "IDLE_SECONDS", 0)

    async def killed(*_: object) -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard:
            with monkeypatch.context() as patch:
                patch.setattr(ConsumerGroup, "finish", killed)  # published, and not noted
                async with way.bridged(log=True, name="a"):
                    for number in range(5):
                        way.add(number, user_id=1)
                    await heard.take(1)
            assert way.pending()
            async with way.bridged(log=True, name="b"):
                await until(lambda: way.pending() == 0)
                way.add(5, user_id=1)
                while 5 not in heard.numbers:
                    await heard.take(len(heard.all) + 1)
            copies: dict[int, set[str]] = {}
            for _, one in heard.all:
                copies.setdefault(one["n"], set()).add(one["trio_sse.copy"])
            assert sorted(copies) == [*range(6)]
            assert all(len(found) == 1 for found in copies.values())
            assert len(heard.all) > 6

    in_asyncio(test)


def test_entries_of_two_logs_are_two_messages_even_with_one_id(way: Way) -> None:
    """Each log has a bridge, and streams know a message by its copy."""
    assert module._copy_of(b"1-1", b'{"user_id":1,"n":1}') != module._copy_of(b"1-1", b'{"user_id":1,"n":2}')
    assert module._copy_of(b"1-1", b"{}") == module._copy_of(b"1-1", b"{}")


def test_where_the_log_is_deleted_all_are_told_and_what_comes_next_is_not_skipped(way: Way) -> None:
    async def test() -> None:
        async with hearing(way.port, way.prefix) as heard, way.bridged(log=True):
            way.add(1, user_id=1)
            await heard.take(1)
            with way.back_end.pipeline() as together:
                together.delete(way.log)
                together.xadd(way.log, {"payload": message(2, user_id=1)})
                together.execute()
            await heard.take(2)
            assert heard.numbers == [1, 2]
            assert heard.gaps == 2  # the first is from its beginning

    in_asyncio(test)


def test_while_the_redis_to_publish_to_is_away_nothing_of_a_log_is_lost(valkey: int) -> None:
    with breakable() as target:
        way = Way(valkey, target.port)

        async def test() -> None:
            async with way.bridged(log=True) as bridge:
                async with hearing(target.port, way.prefix) as heard:
                    way.add(0, user_id=1)
                    await heard.take(1)
                target.kill()
                for number in range(1, 300):
                    way.add(number, user_id=1)
                await until(lambda: "127.0.0.1:" + str(target.port) in bridge._attempts.problem)
                assert "REDIS_PORT" in bridge._attempts.problem
                assert f":{valkey}" not in bridge._attempts.problem
                target.start()
                async with hearing(target.port, way.prefix) as heard:
                    while 299 not in heard.numbers:
                        await heard.take(len(heard.all) + 1)
                    assert heard.numbers == [*range(heard.numbers[0], 300)]
                await until(lambda: way.pending() == 0)
                assert bridge.published == 300

        in_asyncio(test)


def test_while_the_redis_to_publish_to_is_away_what_comes_by_a_channel_is_lost_and_told(
    valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GAP_SECONDS", 0.2)
    with breakable() as target:
        way = Way(valkey, target.port)

        async def test() -> None:
            async with way.bridged(log=False) as bridge:
                target.kill()
                for number in range(5):
                    way.tell(number, user_id=1)
                await until(lambda: bridge.lost == 5)
                target.start()
                async with hearing(target.port, way.prefix) as heard:
                    await heard.gap()
                    way.tell(5, user_id=1)
                    await heard.take(1)
                    assert heard.numbers == [5]

        in_asyncio(test)


def test_when_the_redis_to_read_from_is_back_it_goes_on(valkey: int, log: bool) -> None:
    with breakable() as source:
        way = Way(source.port, valkey)

        async def test() -> None:
            async with hearing(valkey, way.prefix) as heard, way.bridged(log=log) as bridge:
                await heard.gap()
                source.kill()
                await until(lambda: not bridge._attempts.succeeded)
                assert f"127.0.0.1:{source.port}" in bridge._attempts.problem
                source.start()
                await until(lambda: bridge._attempts.succeeded)
                await heard.gap(2)  # that Valkey keeps nothing on a disk: the log is new
                (way.add if log else way.tell)(1, user_id=1)
                await heard.take(1)

        in_asyncio(test)


def test_a_stop_waits_until_what_was_taken_is_published(
    way: Way, log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = Post.give

    async def test() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def held_up(*given: Any) -> list[int]:
            began.set()
            await go_on.wait()
            return await give(*given)

        bridge = way.bridge(log=log)
        task = asyncio.ensure_future(bridge.run())
        await until(lambda: bridge._attempts.succeeded)
        async with hearing(way.port, way.prefix) as heard:
            monkeypatch.setattr(Post, "give", held_up)
            for number in range(50):
                (way.add if log else way.tell)(number, user_id=1)
            await began.wait()
            bridge.stop(task)
            go_on.set()
            await ended(task)
            assert bridge.published
            assert len(await heard.take(bridge.published)) == bridge.published
            assert not log or way.pending() == 0

    in_asyncio(test)


def test_a_stop_that_is_said_again_waits_for_nothing(way: Way) -> None:
    async def test() -> None:
        bridge = way.bridge(log=True)
        task = asyncio.ensure_future(bridge.run())
        await until(lambda: bridge._attempts.succeeded)
        bridge._at_work = True
        bridge.stop(task)
        await asyncio.sleep(0)
        assert not task.cancelling()
        bridge.stop(task)
        await ended(task)

    in_asyncio(test)


def _lost(bridge: Bridge, count: int) -> bool:
    return bridge.lost == count


def _succeeded(bridge: Bridge) -> bool:
    return bridge._attempts.succeeded


async def _one_each(way: Way, nodes: Cluster, stack: contextlib.AsyncExitStack) -> dict[int, Heard]:
    """A user for each master, by its port, and what comes for that user."""
    found = {}
    for node in nodes.masters:
        users = (number for number in range(10_000))
        user = next(one for one in users if nodes.master_of(f"{way.prefix}:user:{one}") is node)
        channel = f"{way.prefix}:user:{user}"
        found[user] = await stack.enter_async_context(hearing(node.port, way.prefix, channel))
    return found


def test_a_master_that_is_away_keeps_nobody_else_from_getting_messages(valkey: int, log: bool) -> None:
    with cluster(3) as nodes:
        for node in nodes.masters:
            node.client.config_set("cluster-require-full-coverage", "no")
        way = Way(valkey, nodes=nodes)
        home = nodes.master_of(f"{way.prefix}:all")
        dead = next(node for node in nodes.masters if node is not home)

        async def test() -> None:
            async with way.bridged(log=log) as bridge, contextlib.AsyncExitStack() as stack:
                heard = await _one_each(way, nodes, stack)
                users = [*heard]
                dead.kill()
                alive = [one for place, one in enumerate(heard.values()) if nodes.masters[place] is not dead]
                everybody = await stack.enter_async_context(hearing(home.port, "", f"{way.prefix}:all"))
                for number in range(3):
                    (way.add if log else way.tell)(number, user_id=users)
                    if not log:
                        await until(partial(_lost, bridge, number + 1))
                if log:  # it waits for that master, and publishes nobody's copy again
                    await until(lambda: bridge._attempts._backoff._ceiling > 0.5)  # it tried several times
                    assert way.pending()
                for one in alive:
                    await one.take(bridge.published // 2)
                    assert one.numbers == [*range(len(one.numbers))]
                    assert log or one.numbers == [0, 1, 2]
                if log:
                    assert bridge.published in (2, 4, 6)
                else:
                    assert bridge.published == 6
                    assert everybody.gaps == 0  # a gap for each would be a flood

        in_asyncio(test)


def test_a_cluster_is_read_from_the_node_that_has_the_log() -> None:
    with cluster(3) as nodes:
        addresses = ",".join(node.address for node in nodes.masters)

        async def test() -> None:
            for number in range(6):
                source = settings(
                    redis_cluster=addresses, redis_routing="shared", redis_stream=f"log-{number}"
                )
                target = settings(redis_cluster=addresses, redis_channel="n")
                bridge = Bridge(source, target, partial(post_of, target), "a")
                task = asyncio.ensure_future(bridge.run())
                await until(partial(_succeeded, bridge))
                home = nodes.master_of("n:user:1")
                async with hearing(home.port, "n", "n:user:1") as heard:
                    payload = message(number, user_id=1)
                    nodes.master_of(f"log-{number}").call("XADD", f"log-{number}", "*", "payload", payload)
                    await heard.take(1)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

        in_asyncio(test)


def test_what_is_wrong_with_the_source_names_its_option() -> None:
    way = Way(free_port())
    source = settings(redis_url=f"redis://127.0.0.1:{way.port}", redis_stream="x")
    bridge = Bridge(source, way.settings, partial(post_of, way.settings), "a")
    refused = redis.exceptions.ResponseError("WRONGTYPE Operation against a key")
    assert "--from-stream" in bridge._told(refused)
    assert "--from" in bridge._told(ConnectionRefusedError("no"))
    assert "REDIS_URL" not in bridge._told(ConnectionRefusedError("no"))


# To the partitions of a log.


class Parts(Way):
    """As `Way`, to partitions of the same Redis, or of a cluster."""

    def __init__(self, port: int, nodes: Cluster | None = None) -> None:
        super().__init__(port, nodes=nodes)
        self.layout = Layout(f"parts-{secrets.token_hex(4)}", 8)
        parts: dict[str, Any] = {"redis_stream": self.layout.key, "stream_partitions": 8}
        self._nodes = nodes
        self.settings = at(port, redis_main_db=2, **parts)
        if nodes is not None:
            addresses = ",".join(node.address for node in nodes.masters)
            self.settings = settings(redis_cluster=addresses, **parts)

    def has(self) -> dict[int, list[Any]]:
        """What each partition has."""
        found: dict[int, list[Any]] = {}
        with redis.Redis(port=self.port, db=2) as client:
            for number in range(8):
                key = self.layout.name(number)
                home = client if self._nodes is None else self._nodes.master_of(key).client
                entries: Any = home.xrange(key)
                if entries:
                    found[number] = [json.loads(fields[b"payload"]) for _, fields in entries]
        return found


@pytest.fixture(params=["one", "cluster"])
def parts(request: pytest.FixtureRequest, valkey: int) -> Iterator[Parts]:
    nodes = request.getfixturevalue("three") if request.param == "cluster" else None
    found = Parts(valkey, nodes)
    yield found
    found.back_end.close()


GAPS = {number: [{"trio_sse.gap": "redis_reconnected"}] for number in range(8)}


def test_each_message_goes_to_the_partitions_of_those_it_is_for(parts: Parts, log: bool) -> None:
    async def test() -> None:
        async with parts.bridged(log=log) as bridge:
            await until(lambda: parts.has() == GAPS)
            send = parts.add if log else parts.tell
            send(1, user_id=42)
            send(2, user_id="*")
            send(3, user_id=[42, "bob"], topic="orders/17")
            send(4)
            several = parts.layout.numbers(["42", "bob", topic("orders/17")])
            await until(lambda: (bridge.published, bridge.skipped) == (9 + len(several), 1))
        assert {number: [one.get("n") for one in found] for number, found in parts.has().items()} == {
            number: [None] + [1] * (number == parts.layout.of("42")) + [2] + [3] * (number in several)
            for number in range(8)
        }
        assert all("trio_sse.copy" not in one for found in parts.has().values() for one in found)

    in_asyncio(test)


def test_what_a_dead_bridge_had_added_is_added_no_second_time(parts: Parts) -> None:
    """It died between the partitions and its log: another one takes the same entries up again."""

    async def test() -> None:
        async with parts.bridged(log=True):
            await until(lambda: parts.has() == GAPS)
        for number in range(20):
            parts.add(number, user_id=[f"u{number}", f"v{number}"])
        taken: Any = parts.back_end.xreadgroup(GROUP, "a", {parts.log: ">"}, count=10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConsumerGroup, "finish", _dies)
            bridge = parts.bridge(log=True)
            with contextlib.suppress(_DeadError):
                await bridge.run()
        assert len(taken[0][1]) == 10
        assert parts.pending() == 10
        before = parts.has()
        assert before != GAPS
        async with parts.bridged(log=True):
            await until(lambda: not parts.pending() and _last(parts.has(), 19))
        after = parts.has()
        for number, found in after.items():
            numbers = [one.get("n") for one in found]
            expected = [n for n in range(20) if number in parts.layout.numbers([f"u{n}", f"v{n}"])]
            assert numbers == [None, *expected]
            assert found[: len(before.get(number, []))] == before.get(number, [])

    in_asyncio(test)


class _DeadError(Exception):
    pass


async def _dies(*_: object) -> None:
    raise _DeadError


def _last(has: dict[int, list[Any]], number: int) -> bool:
    return any(one.get("n") == number for found in has.values() for one in found)
