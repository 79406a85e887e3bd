"""What comes on a link that is subscribed, what does not, and what nobody expected."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
from structlog.testing import capture_logs

from tests.support.inside import PATIENCE_SECONDS, Client, joined, new_hub, until
from tests.support.subscribing import new_subscriber, running
from tests.support.valkeys import certificate, relay, tls_in_front_of
from trio_sse.broker import feed as feed_module
from trio_sse.broker.takeover import Takeover
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.hub import Hub


@pytest.fixture
def hub() -> Hub:
    return new_hub(clock=trio.current_time)


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


async def test_redis_is_read_no_further_while_too_much_waits_for_the_flusher(
    hub: Hub, port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_PENDING_BYTES", 100)
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
