"""From one real Redis by key: what is subscribed, when streams begin, what is told when Redis was away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.inside import PATIENCE_SECONDS, events, until
from tests.support.ports import free_port
from tests.support.rights import least_rights
from tests.support.subscribing import ByKey, by_key, until_stepping
from tests.support.valkeys import certificate, relay, tls_in_front_of
from trio_sse import embedded
from trio_sse.broker.shard_link import BATCH
from trio_sse.delivery.interest import LINGER_SECONDS


def subscribed(back_end: redis.Redis) -> set[str]:
    return {bytes(channel).decode() for channel in back_end.pubsub_channels("notifications:*")}  # type: ignore[arg-type]


async def test_before_it_ran_it_is_not_ready() -> None:
    service = ByKey()
    assert service.subscriber.problem == "Redis: not connected yet"
    assert service.subscriber.problem_code == "redis_not_tried"


async def test_what_is_subscribed_is_what_is_followed_and_what_is_for_all(
    port: int, back_end: redis.Redis
) -> None:
    async with by_key(redis_port=port) as service:
        await until(lambda: service.subscriber.problem is None)
        assert subscribed(back_end) == {"notifications:all"}
        ann = service.join("ann", ["orders/17"])
        assert ann.names == []
        await until(lambda: ann.names == ["connected"])
        assert subscribed(back_end) == {
            "notifications:all",
            "notifications:user:ann",
            "notifications:topic:orders/17",
        }


async def test_what_is_published_after_connected_arrives_and_nobody_else_s_does(
    port: int, back_end: redis.Redis
) -> None:
    async with by_key(redis_port=port) as service:
        ann, zoe = service.join("ann", ["news"]), service.join("Zoë 李")
        await until(lambda: ann.names and zoe.names)
        for channel, text in (
            ("user:bob", "wrong"),
            ("user:ann", "one"),
            ("topic:news", "two"),
            ("all", "three"),
            ("topic:ann", "wrong"),
            ("user:Zoë 李", "four"),
        ):
            back_end.publish(f"notifications:{channel}", f'{{"message":"{text}","created_at":0}}')
        await until(lambda: len(ann.names) == 4 and len(zoe.names) == 3)
        assert [event.json()["message"] for event in events(ann.received)[1:]] == ["one", "two", "three"]
        assert [event.json()["message"] for event in events(zoe.received)[1:]] == ["three", "four"]


async def test_thousands_that_join_at_once_go_in_few_commands(port: int, back_end: redis.Redis) -> None:
    def commands() -> int:
        stats = back_end.info("commandstats")
        assert isinstance(stats, dict)
        return int(stats.get("cmdstat_subscribe", {"calls": 0})["calls"])

    async with by_key(redis_port=port) as service:
        await until(lambda: service.subscriber.problem is None)
        before = commands()
        clients = [service.join(None, [f"t{a}-{b}" for b in range(50)]) for a in range(100)]
        await until(lambda: all(client.names for client in clients))
        assert len(subscribed(back_end)) == 5001
        assert commands() - before <= 5000 / BATCH + 1


async def test_what_nobody_follows_is_left_after_a_while(
    port: int, back_end: redis.Redis, mock_clock: MockClock
) -> None:
    async with by_key(redis_port=port) as service:
        await until_stepping(mock_clock, lambda: service.subscriber.problem is None)
        ann = service.join("ann")
        await until_stepping(mock_clock, lambda: ann.names)
        service.leave(ann)
        mock_clock.jump(LINGER_SECONDS[0] - 2)
        await until_stepping(mock_clock, lambda: True)
        assert len(subscribed(back_end)) == 2
        mock_clock.jump(LINGER_SECONDS[1])
        await until_stepping(mock_clock, lambda: len(subscribed(back_end)) == 1)
        assert len(service.interest) == 1


async def test_a_reload_loses_nothing_and_a_long_absence_is_a_gap(port: int, back_end: redis.Redis) -> None:
    async with by_key(redis_port=port) as service:
        ann = service.join("ann")
        await until(lambda: ann.names)
        service.leave(ann)
        back_end.publish("notifications:user:ann", '{"n":1}')
        await until(lambda: service.hub.counters.received == 1)
        last_id = events(ann.received)[-1].id
        again = service.join("ann", last_event_id=last_id)
        assert again.names == ["connected", "message"]
        service.leave(again)
        for target in list(service.interest._lingering):
            service.interest._lingering[target] = 0
        service.interest._ends = {0: dict.fromkeys(service.interest._lingering)}
        service.interest.expire()
        late = service.join("ann", last_event_id=events(again.received)[-1].id)
        await until(lambda: late.names)
        assert late.names == ["connected", "gap"]
        assert events(late.received)[1].json()["reason"] == "history_expired"


async def test_a_lost_link_is_told_when_all_is_back_and_not_before(port: int, back_end: redis.Redis) -> None:
    async with relay(port) as passed, by_key(redis_port=passed.port) as service:
        clients = [service.join("ann", [f"t{number}" for number in range(500)]), service.join("bob")]
        await until(lambda: all(client.names for client in clients))
        with capture_logs() as lines:
            await passed.clients[0].aclose()
            await until(lambda: all(client.names == ["connected", "gap"] for client in clients))
            assert len(subscribed(back_end)) == 503
        assert [line["event"] for line in lines] == ["lost Redis, trying again", "subscribed to Redis"]
        assert service.reconnects == 1
        assert service.subscriber.problem is None
        back_end.publish("notifications:topic:t499", '{"n":1}')
        await until(lambda: clients[0].names[-1] == "message")


async def test_streams_begin_without_redis_and_are_told_when_it_is_there() -> None:
    with embedded.valkey(free_port()) as port:
        pass  # a port that is free now
    async with by_key(redis_port=port) as service:
        ann = service.join("ann")
        assert ann.names == ["connected"]
        assert "REDIS_PORT" in (service.subscriber.problem or "")
        with embedded.valkey(port):
            await until(lambda: ann.names == ["connected", "gap"])
            await until(lambda: service.subscriber.problem is None)


async def test_what_an_acl_forbids_is_one_line_however_often_it_is_tried(
    port: int, back_end: redis.Redis, mock_clock: MockClock
) -> None:
    back_end.acl_setuser(
        "sse", enabled=True, passwords=["+pw"], channels=["notifications:all"], commands=["+@all"]
    )
    with capture_logs() as lines:
        async with by_key(redis_port=port, redis_username="sse", redis_password="pw") as service:
            await until_stepping(mock_clock, lambda: service.subscriber.problem is None)
            service.join("ann")
            await until_stepping(mock_clock, lambda: service.subscriber.problem)
            for _ in range(10):
                mock_clock.jump(6)
                for _ in range(5):
                    await until_stepping(mock_clock, lambda: True)
            assert service.subscriber.problem_code == "redis_refused"
            assert service.reconnects == 0
    back_end.acl_deluser("sse")
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "NOPERM" in warnings[0]["problem"]
    assert "SSE_REDIS_CHANNEL" in warnings[0]["problem"]
    assert len(lines) == 2  # once it was subscribed


async def test_while_it_subscribes_again_it_is_not_ready(port: int, back_end: redis.Redis) -> None:
    async with relay(port) as passed, by_key(redis_port=passed.port) as service:
        ann = service.join("ann")
        await until(lambda: ann.names)
        shard = service.interest._shard_of("ann")
        shard.owed["ann"] = None
        assert "subscribing again, 1 of 1 channels to go" in (service.subscriber.problem or "")
        assert service.subscriber.problem_code == "redis_subscribing"


async def test_with_tls(port: int, back_end: redis.Redis, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with (
        tls_in_front_of(port, cert, key) as front,
        by_key(redis_url=f"rediss://127.0.0.1:{front}?ssl_ca_certs={cert}") as service,
    ):
        ann = service.join("ann")
        await until(lambda: "connected" in ann.names)
        await until(lambda: service.subscriber.problem is None)
        back_end.publish("notifications:user:ann", '{"n":1}')
        await until(lambda: ann.names[-1] == "message")


async def test_streams_that_come_and_go_before_redis_has_answered_leave_nothing(
    port: int, back_end: redis.Redis
) -> None:
    async with by_key(redis_port=port) as service:
        for turn in range(50):
            clients = [service.join(f"u{number}") for number in range(20)]
            for _ in range(turn % 7):
                await trio.lowlevel.checkpoint()
            for client in clients[turn % 3 :]:
                service.leave(client)
            for client in clients[: turn % 3]:
                service.leave(client)
        assert not service.interest._begins
        assert not service.interest._waiting
        service.interest._history._clock = lambda: trio.current_time() + 1000
        service.interest.expire()
        await until(lambda: subscribed(back_end) == {"notifications:all"})
        assert len(service.interest) == 1


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_it_ends_whenever_it_is_cancelled_and_nobody_waits_any_more(port: int, turns: int) -> None:
    service = ByKey(redis_port=port)
    ann = service.join("ann")
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.subscriber.run)
            for _ in range(turns):
                await trio.sleep(0.0003)
            bob = service.join("bob")
            nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert ann.names[:1] == bob.names[:1] == ["connected"]
    assert not service.interest._begins


async def test_the_rights_that_the_docs_name_are_enough(port: int, back_end: redis.Redis) -> None:
    commands: Any = back_end
    commands.execute_command("ACL", "SETUSER", "least", "on", ">pw", *least_rights("+unsubscribe"))
    try:
        async with by_key(redis_port=port, redis_username="least", redis_password="pw") as service:
            ann = service.join("ann")
            await until(lambda: ann.names)
            service.leave(ann)
            service.interest._history._clock = lambda: trio.current_time() + 1000
            service.interest.expire()
            await until(lambda: subscribed(back_end) == {"notifications:all"})
            assert service.reconnects == 0
            assert service.subscriber.problem is None
    finally:
        back_end.acl_deluser("least")
