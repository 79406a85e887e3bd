"""A stream that ends is one line: who, how long, how many, why."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import Client, flush_now, note, settings
from trio_sse.access.admission import Accepted
from trio_sse.delivery import sse
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.logged_connection import LoggedBraid, LoggedConnection, messages_in
from trio_sse.delivery.notices import connected, farewell, gap, heartbeat, snapshot
from trio_sse.delivery.resume import Start
from trio_sse.service import Service


class Opened:
    """A stream of ann's at a service that logs them."""

    def __init__(self, *, last_words: bytes = b"", topics: tuple[str, ...] = (), **values: Any) -> None:
        self.service = Service(settings(log_streams=True, **values))
        self.accepted = Accepted("ann", Start(), (), "192.0.2.1", last_words=last_words, topics=topics)
        self.connection = self.service.open(self.accepted)
        self.client = Client(self.connection)
        self.client.catch_up()

    def publish(self, count: int, key: str | None = None) -> None:
        for _ in range(count):
            self.service.hub.dispatch(note("ann", key=key))
            flush_now(self.service.hub)

    def ended(self, why: str = "left") -> dict[str, Any]:
        """The line that it leaves."""
        with capture_logs() as lines:
            self.service.release(self.connection, why)
            self.service.release(self.connection)
        (line,) = lines
        assert (line.pop("event"), line.pop("log_level")) == ("stream ended", "info")
        return dict(line)


async def test_who_how_long_how_many_and_why(mock_clock: MockClock) -> None:
    stream = Opened(topics=("news", "orders/17"))
    stream.publish(3)
    mock_clock.jump(12.5)
    assert stream.ended() == {
        "user": "ann",
        "topics": ["news", "orders/17"],
        "address": "192.0.2.1",
        "seconds": 12.5,
        "messages": 3,
        "dropped": 0,
        "why": "left",
    }


async def test_messages_that_waited_were_dropped_or_superseded_are_told_apart() -> None:
    stream = Opened(buffer=2)
    stream.publish(1)
    stream.client.busy = True
    stream.publish(5)
    stream.publish(4, key="state")
    stream.client.catch_up()
    stream.publish(1)
    line = stream.ended()
    assert (line["messages"], line["dropped"]) == (1 + 2 + 1 + 1, 3)
    assert stream.client.names.count("message") == line["messages"]


async def test_replayed_messages_count() -> None:
    stream = Opened()
    stream.publish(1)
    last_id = stream.service.history.text(stream.service.history.latest)
    stream.publish(4)
    stream.connection = stream.service.open(stream.accepted._replace(start=Start(last_id)))
    stream.client = Client(stream.connection)
    stream.client.catch_up()
    stream.publish(1)
    assert stream.ended()["messages"] == 5


async def test_what_a_notice_says_is_why() -> None:
    stream = Opened()
    stream.connection.end(farewell("draining", 1))
    assert stream.ended("write_timeout")["why"] == "draining"


async def test_a_stream_too_many() -> None:
    assert Opened(last_words=farewell("overloaded", 1)).ended()["why"] == "overloaded"


async def test_a_slow_client_that_is_disconnected() -> None:
    stream = Opened(buffer=1, slow_client="disconnect")
    stream.client.busy = True
    stream.publish(2)
    assert stream.ended()["why"] == "slow_client"


async def test_one_that_took_nothing() -> None:
    assert Opened().ended("write_timeout")["why"] == "write_timeout"


async def test_the_end_of_the_longest_life(autojump_clock: MockClock) -> None:
    stream = Opened(max_stream_seconds=10)
    async with trio.open_nursery() as nursery:
        await nursery.start(stream.service.lifetimes.run)
        while not stream.connection.closed:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert stream.ended()["why"] == "max_stream_seconds"


async def test_the_end_of_the_service() -> None:
    stream = Opened()
    stream.service.hub.close()
    assert stream.ended()["why"] == "stopping"


async def test_without_the_setting_nothing_is_counted_or_said() -> None:
    service = Service(settings())
    connection = service.open(Accepted("ann", Start(), ()))
    assert type(connection) is Connection
    with capture_logs() as lines:
        service.release(connection)
    assert lines == []


async def test_it_takes_no_more_memory_than_its_fields() -> None:
    common: Any = None
    assert "__dict__" not in dir(LoggedConnection("1", common, ""))
    assert "__dict__" not in dir(LoggedBraid("1", common, lambda _: None, ""))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (sse.COMMENT + heartbeat(), 0),
        (connected("ann", [], "x", 30.0, position="1-1", replayed=0), 0),
        (gap("slow_client", 3, id="x-1") + snapshot(3, None) + farewell("draining", 1), 0),
        (sse.event(b"1", id="x-1") + sse.event(b"2\n\n:\n\nevent: gap", name="gaps") + sse.event(b""), 3),
        (sse.COMMENT + sse.event(b"event: gap\n", id="x-1"), 1),
    ],
    ids=range(6),
)
def test_messages_are_told_from_notices(data: bytes, count: int) -> None:
    assert messages_in(data) == count
