"""From a real Redis to the hub: subscribed, lost, and subscribed again."""

from __future__ import annotations

import logging

import pytest
import redis
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import Client, flush_now, joined, new_hub, until
from tests.support.subscribing import new_subscriber, running, until_stepping
from trio_sse.delivery.hub import Hub


@pytest.fixture
def hub() -> Hub:
    return new_hub(clock=trio.current_time)


async def test_before_it_ran_it_is_not_ready(hub: Hub, port: int) -> None:
    assert new_subscriber(hub, port).problem == "Redis: not connected yet"


async def test_what_is_published_reaches_the_clients_of_its_user(
    hub: Hub, port: int, back_end: redis.Redis
) -> None:
    ann, bob = Client(joined(hub, "ann")), Client(joined(hub, "bob"))
    async with running(hub, port) as subscriber:
        assert subscriber.problem is None
        back_end.publish("notifications", '{"user_id":"ann","message":"hi","created_at":"then"}')
        await until(lambda: ann.data)
    assert ann.data == ['{"user_id":"ann","message":"hi","created_at":"then"}']
    assert bob.data == []
    assert hub.counters.redis_reconnects == 0


async def test_many_messages_arrive_in_order(hub: Hub, port: int, back_end: redis.Redis) -> None:
    client = Client(joined(hub))
    async with running(hub, port):
        pipeline = back_end.pipeline(transaction=False)
        for number in range(1000):
            pipeline.publish("notifications", f'{{"user_id":1,"created_at":{number}}}')
        pipeline.execute()
        await until(lambda: len(client.data) == 1000)
    assert client.data == [f'{{"user_id":1,"created_at":{number}}}' for number in range(1000)]


async def test_only_its_own_channel_counts(hub: Hub, port: int, back_end: redis.Redis) -> None:
    client = Client(joined(hub))
    async with running(hub, port, redis_channel="news"):
        back_end.publish("notifications", '{"user_id":1,"created_at":"wrong"}')
        back_end.publish("news", '{"user_id":1,"created_at":"right"}')
        await until(lambda: client.data)
    assert [event for event in client.data if "wrong" in event] == []


async def test_a_message_that_cannot_be_delivered_is_counted_and_skipped(
    hub: Hub, port: int, back_end: redis.Redis
) -> None:
    client = Client(joined(hub))
    with capture_logs() as lines:
        async with running(hub, port, max_message_bytes=64):
            for payload in (b"{", b"\xff\xfe", b"x" * 65, b'{"user_id":1,"created_at":0}'):
                back_end.publish("notifications", payload)
            await until(lambda: client.data)
    assert client.data == ['{"user_id":1,"created_at":0}']
    assert hub.counters.rejected == 3
    (line,) = [line for line in lines if line["event"] == "message skipped"]
    assert "not JSON" in line["reason"]
    assert line["bytes"] == 1
    assert "payload" not in line


async def test_a_flood_of_bad_messages_is_one_line_a_second_that_counts_the_others(
    hub: Hub,
    port: int,
    back_end: redis.Redis,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_sse")
    with capture_logs() as lines:
        async with running(hub, port):
            for _ in range(5):
                back_end.publish("notifications", "{")
            await until_stepping(mock_clock, lambda: hub.counters.rejected == 5)
            mock_clock.jump(1)
            back_end.publish("notifications", b"\xff")
            await until_stepping(mock_clock, lambda: hub.counters.rejected == 6)
    skipped = [line for line in lines if line["event"] == "message skipped"]
    assert [line["skipped_unlogged"] for line in skipped] == [0, 4]
    assert skipped[1]["payload"] == "\\xff"


async def test_a_message_for_nobody_here_is_told_to_whoever_looks_for_it(
    hub: Hub, port: int, back_end: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_sse")
    joined(hub, "ann")
    with capture_logs() as lines:
        async with running(hub, port):
            back_end.publish("notifications", '{"user_id":"bob"}')
            await until(lambda: hub.counters.received == 1)
    (line,) = [line for line in lines if line["log_level"] == "debug"]
    assert (line["users"], line["connected"]) == (("bob",), ["ann"])


async def test_a_lost_subscription_is_taken_up_again_and_everybody_is_told(
    hub: Hub, port: int, back_end: redis.Redis
) -> None:
    client = Client(joined(hub))
    with capture_logs() as lines:
        async with running(hub, port) as subscriber:
            back_end.client_kill_filter(_type="pubsub")
            await until(lambda: client.names)
            assert subscriber.problem is None
            back_end.publish("notifications", '{"user_id":1,"created_at":0}')
            await until(lambda: len(client.data) == 2)
    assert client.names == ["gap", "message"]
    assert client.data[0] == '{"reason":"redis_reconnected","dropped":null}'
    assert hub.counters.redis_reconnects == 1
    told = [line["event"] for line in lines]
    assert told == ["subscribed to Redis", "lost Redis, trying again", "subscribed to Redis"]


async def test_after_15_silent_seconds_it_is_not_ready(hub: Hub, port: int, mock_clock: MockClock) -> None:
    async with running(hub, port, ping_seconds=3600) as subscriber:
        mock_clock.jump(14)
        assert not subscriber.problem
        mock_clock.jump(2)
        problem: str | None = subscriber.problem
        assert problem
        assert "has not answered for 16 s" in problem


async def test_cancelling_it_closes_its_connection(hub: Hub, port: int, back_end: redis.Redis) -> None:
    async with running(hub, port):
        assert back_end.pubsub_numsub("notifications") == [(b"notifications", 1)]
    await until(lambda: back_end.pubsub_numsub("notifications") == [(b"notifications", 0)])
    flush_now(hub)
