"""From a real Redis to the hub: subscribed, lost, and subscribed again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import (
    PATIENCE_SECONDS,
    Client,
    flush_now,
    joined,
    new_hub,
    new_resumer,
    settings,
    until,
)
from tests.support.ports import free_port
from tests.support.valkeys import certificate, relay, tls_in_front_of
from trio_sse import embedded
from trio_sse.broker import subscriber as subscriber_module
from trio_sse.broker.subscriber import Subscriber
from trio_sse.broker.takeover import Takeover
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.hub import Hub


@pytest.fixture
def hub() -> Hub:
    return new_hub(clock=trio.current_time)


def new_subscriber(
    hub: Hub, port: int, *, ping_seconds: float = 5, pong_seconds: float = 10, **values: Any
) -> Subscriber:
    at = settings(redis_host="127.0.0.1", redis_port=port, **values)
    resumer = new_resumer(hub.history)
    return Subscriber(at, hub, resumer, ping_seconds=ping_seconds, pong_seconds=pong_seconds)


@asynccontextmanager
async def running(hub: Hub, port: int, **values: Any) -> AsyncIterator[Subscriber]:
    subscriber = new_subscriber(hub, port, **values)
    async with trio.open_nursery() as nursery:
        await nursery.start(flush_forever, hub)
        await nursery.start(subscriber.run)
        yield subscriber
        nursery.cancel_scope.cancel()


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
    assert line["payload"] == "{"
    assert "not JSON" in line["reason"]


async def test_a_flood_of_bad_messages_is_one_line_a_second_that_counts_the_others(
    hub: Hub, port: int, back_end: redis.Redis, mock_clock: MockClock
) -> None:
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


async def until_stepping(clock: MockClock, condition: Any) -> None:
    """Wait for a real Redis while the clock of this test goes on by almost nothing."""
    for _ in range(10_000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
        clock.jump(0.00001)
        await trio.to_thread.run_sync(lambda: None)
    raise AssertionError("it never came")


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


async def test_what_is_no_resp_is_a_lost_link(hub: Hub, port: int, back_end: redis.Redis) -> None:
    client = Client(joined(hub))
    async with relay(port) as passed:
        with capture_logs() as lines:
            async with running(hub, passed.port) as subscriber:
                back_end.publish("notifications", '{"user_id":1,"created_at":0}')
                await until(lambda: client.data)
                await passed.clients[0].send_all(b"?\r\n")
                await until(lambda: client.names[1:])
                assert subscriber.problem is None
                back_end.publish("notifications", '{"user_id":1,"created_at":1}')
                await until(lambda: len(client.data) == 3)
    assert client.names == ["message", "gap", "message"]
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert "Protocol error" in line["problem"]


async def test_an_error_of_redis_among_the_messages_is_a_lost_link(hub: Hub, port: int) -> None:
    async with relay(port) as passed:
        with capture_logs() as lines:
            async with running(hub, passed.port) as subscriber:
                await passed.clients[0].send_all(b"-NOPERM it was taken away\r\n")
                await until(lambda: hub.counters.redis_reconnects)
                assert subscriber.problem is None
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert "NOPERM it was taken away" in line["problem"]


async def test_what_is_no_message_is_passed_over(hub: Hub, port: int, back_end: redis.Redis) -> None:
    client = Client(joined(hub))
    async with relay(port) as passed, running(hub, passed.port):
        await passed.clients[0].send_all(b":1\r\n*0\r\n$-1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:2\r\n")
        back_end.publish("notifications", '{"user_id":1,"created_at":0}')
        await until(lambda: client.data)
    assert client.names == ["message"]


async def test_what_one_read_brought_leaves_in_the_turn_that_read_it(
    hub: Hub, port: int, back_end: redis.Redis
) -> None:
    """There is no flusher here."""
    client = Client(joined(hub))
    subscriber = new_subscriber(hub, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(subscriber.run)
        back_end.publish("notifications", '{"user_id":1,"created_at":0}')
        await until(lambda: client.data)
        assert not hub.pending.is_set()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("by_server", "count", "patiently"), [(0, 1, False), (0, 3, True), (1, 3, False)])
async def test_after_several_messages_it_reads_patiently_unless_a_server_writes_streams(
    hub: Hub,
    port: int,
    back_end: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    by_server: int,
    count: int,
    patiently: bool,
) -> None:
    reads: list[bool] = []
    receive = Takeover.receive

    async def noted(takeover: Takeover, *, patiently: bool = False) -> None:
        reads.append(patiently)
        await receive(takeover, patiently=patiently)

    monkeypatch.setattr(Takeover, "receive", noted)
    client = Client(joined(hub))
    hub.by_server = by_server
    async with running(hub, port):
        with back_end.pipeline(transaction=True) as together:  # Redis writes what it brings at once
            for number in range(count):
                together.publish("notifications", f'{{"user_id":1,"created_at":{number}}}')
            together.execute()
        await until(lambda: len(client.data) == count and len(reads) > 1)
    assert reads[:2] == [False, patiently]


async def test_with_tls_it_reads_and_delivers_in_order(
    hub: Hub, port: int, back_end: redis.Redis, tmp_path: Path
) -> None:
    client = Client(joined(hub))
    cert, key = certificate(tmp_path)
    async with (
        tls_in_front_of(port, cert, key) as front,
        running(hub, 1, redis_url=f"rediss://127.0.0.1:{front}?ssl_ca_certs={cert}") as subscriber,
    ):
        await until(lambda: subscriber.problem is None)
        for number in range(3):
            back_end.publish("notifications", f'{{"user_id":1,"created_at":{number}}}')
        await until(lambda: len(client.data) == 3)
    assert client.data == [f'{{"user_id":1,"created_at":{number}}}' for number in range(3)]


async def test_a_redis_that_comes_later_is_found(hub: Hub) -> None:
    with embedded.valkey(free_port()) as port:
        pass  # a port that is free now
    client = Client(joined(hub))
    async with running(hub, port) as subscriber:
        assert "REDIS_HOST, REDIS_PORT or REDIS_URL" in (subscriber.problem or "")
        assert f"127.0.0.1:{port}" in (subscriber.problem or "")
        with embedded.valkey(port):
            await until(lambda: subscriber.problem is None)
            await until(lambda: client.names == ["gap"])
        await until(lambda: subscriber.problem)


async def test_a_redis_that_stays_away_is_told_once(hub: Hub, mock_clock: MockClock) -> None:
    with capture_logs() as lines:
        async with running(hub, 1):
            for _ in range(20):
                mock_clock.jump(6)
                await until_stepping(mock_clock, lambda: True)
    assert [line["event"] for line in lines] == ["no Redis, trying again"]


async def test_pings_keep_a_silent_connection(hub: Hub, port: int, back_end: redis.Redis) -> None:
    def pings() -> int:
        stats: Any = back_end.info("commandstats")
        return int(stats.get("cmdstat_ping", {"calls": 0})["calls"])

    before = pings()
    async with running(hub, port, ping_seconds=0.02) as subscriber:
        await until(lambda: pings() >= before + 3)
        assert subscriber.problem is None
    assert hub.counters.redis_reconnects == 0


async def test_a_redis_that_does_not_answer_a_ping_is_given_up(
    hub: Hub, port: int, back_end: redis.Redis
) -> None:
    async with running(hub, port, ping_seconds=0.02, pong_seconds=0.02) as subscriber:
        back_end.client_pause(200)
        await until(lambda: subscriber.problem)
        assert "no answer" in (subscriber.problem or "")
        await until(lambda: subscriber.problem is None)


async def test_after_15_silent_seconds_it_is_not_ready(hub: Hub, port: int, mock_clock: MockClock) -> None:
    async with running(hub, port, ping_seconds=3600) as subscriber:
        mock_clock.jump(14)
        assert not subscriber.problem
        mock_clock.jump(2)
        problem: str | None = subscriber.problem
        assert problem
        assert "has not answered for 16 s" in problem


async def test_a_mistake_of_ours_is_raised_and_not_retried(
    hub: Hub, port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "dispatch", lambda *_: 1 / 0)
    subscriber = new_subscriber(hub, port)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run)
            back_end.publish("notifications", '{"user_id":1}')


async def test_redis_is_read_no_further_while_too_much_waits_for_the_flusher(
    hub: Hub, port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber_module, "MAX_PENDING_BYTES", 100)
    client = Client(joined(hub))
    subscriber = new_subscriber(hub, port)
    hub.take()  # as if a flush were under way: nothing leaves at once
    async with trio.open_nursery() as nursery:
        await nursery.start(subscriber.run)
        for number in range(9):
            back_end.publish("notifications", f'{{"user_id":1,"created_at":{number}}}')
            await trio.lowlevel.checkpoint()
        await until(lambda: hub.pending_bytes > 100)
        for _ in range(20):
            await trio.sleep(0.001)
        assert hub.counters.received < 5
        nursery.start_soon(flush_forever, hub)
        await until(lambda: len(client.data) == 9)
        nursery.cancel_scope.cancel()


async def test_cancelling_it_closes_its_connection(hub: Hub, port: int, back_end: redis.Redis) -> None:
    async with running(hub, port):
        assert back_end.pubsub_numsub("notifications") == [(b"notifications", 1)]
    await until(lambda: back_end.pubsub_numsub("notifications") == [(b"notifications", 0)])
    flush_now(hub)


async def test_it_ends_whenever_it_is_cancelled_between_pings_and_answers(hub: Hub, port: int) -> None:
    """Python 3.11's wait_for, which redis-py uses with a socket_timeout, swallows a cancellation that comes
    together with the result."""
    for turns in range(60):
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                subscriber = new_subscriber(hub, port, ping_seconds=0)
                await nursery.start(subscriber.run)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()


class Strange:
    """A server that lets anybody subscribe, and sends something no Redis sends before each message."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.subscribed = 0

    async def serve(self, client: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in client:
                await client.send_all(self._answer(bytes(data)))

    def _answer(self, data: bytes) -> bytes:
        if b"SUBSCRIBE" not in data:
            return b"-ERR unknown command\r\n"
        self.subscribed += 1
        channel = b"$13\r\nnotifications\r\n"
        payload = b'{"user_id":"ann"}'
        subscribed = b"*3\r\n$9\r\nsubscribe\r\n" + channel + b":1\r\n"
        message = b"*3\r\n$7\r\nmessage\r\n" + channel + b"$%d\r\n%b\r\n" % (len(payload), payload)
        return subscribed + (self.said if self.subscribed == 1 else b"") + message


@pytest.mark.parametrize(
    "said",
    [
        b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n:5\r\n",  # a message that is a number
        b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n*1\r\n:5\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$-1\r\n",
        b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n-ERR no\r\n",
        b"%1\r\n*1\r\n:1\r\n:2\r\n",  # a map whose key is a list
        b"*0\r\n",
        b"-ERR no\r\n",
        b":5\r\n",
        b"\0\0\0",
    ],
)
async def test_whatever_redis_says_messages_come_on(hub: Hub, said: bytes, nursery: trio.Nursery) -> None:
    """By way of a new link, if this one cannot be read any more."""
    ann = Client(joined(hub, "ann"))
    server = Strange(said)
    (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
    async with running(hub, listener.socket.getsockname()[1]):
        await until(lambda: "message" in ann.names)
    assert server.subscribed <= 2
