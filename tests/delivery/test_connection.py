"""One browser: what it is sent, what waits for it, what it lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_no_checkpoints

from tests.support.inside import (
    PROCESS,
    Client,
    batch,
    events,
    flush_now,
    joined,
    live,
    new_hub,
    new_resumer,
    note,
    unbegun,
)
from trio_sse.counters import Counters
from trio_sse.delivery import connection as connection_module
from trio_sse.delivery import replay as replay_module
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.history import PAGE_BYTES, History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.notices import heartbeat
from trio_sse.delivery.owed import Owed
from trio_sse.delivery.receipts import Receipt
from trio_sse.delivery.resume import Start
from trio_sse.delivery.states import State

BEAT = Batch.notice(heartbeat())


@pytest.fixture
def connection() -> Connection:
    """A live one, for which nobody has taken charge yet."""
    return live(3)


def waiting(connection: Connection) -> list[str]:
    return [event.data for event in events(connection.take_waiting())]


def test_an_idle_client_is_written_to_at_once(connection: Connection) -> None:
    client = Client(connection)
    connection.offer(batch(1, 2))
    assert client.data == ["1", "2"]
    assert connection.take_waiting() == b""


def test_messages_wait_in_order_while_the_client_is_busy(connection: Connection) -> None:
    Client(connection).busy = True
    connection.offer(batch(1, 2))
    connection.offer(batch(3))
    assert waiting(connection) == ["1", "2", "3"]
    assert connection.take_waiting() == b""


def test_messages_wait_while_nobody_has_taken_charge_of_the_connection(connection: Connection) -> None:
    connection.offer(batch(1))
    assert waiting(connection) == ["1"]


def test_a_connection_holds_ten_messages_if_told_so_and_counts_the_rest() -> None:
    counters = Counters()
    connection = live(10, counters=counters)
    connection.offer(batch(*range(1, 14)))
    said = events(connection.take_waiting())
    assert [event.data for event in said[:10]] == [str(number) for number in range(1, 11)]
    assert [event.json()["dropped"] for event in said[10:]] == [3]
    assert counters.dropped == 3


@pytest.mark.parametrize("disconnect", [False, True])
def test_what_one_read_brought_for_a_full_client_is_dropped_at_once(disconnect: bool) -> None:
    """Sixty clients that do not read, and a thousand messages: one by one it takes seconds."""
    counters = Counters()
    connection = live(2, counters=counters, disconnect=disconnect)
    offered = batch(*range(1, 1001))
    offered.receipts = {number: Receipt() for number in (1, 2, 3, 500, 1000)}
    with mock.patch.object(Owed, "drop", autospec=True, side_effect=Owed.drop) as drop:
        connection.offer(offered)
    assert drop.call_count <= 2
    assert [(one.buffered, one.dropped) for one in offered.receipts.values()] == [(1, 0)] * 2 + [(0, 1)] * 3
    said = events(connection.take_waiting())
    if disconnect:
        assert [event.data for event in said] == ["1", "2"]
        assert (counters.dropped, counters.disconnected) == (0, 1)
    else:
        assert [event.data for event in said[:2]] == ["1", "2"]
        assert (said[2].json()["dropped"], said[2].id) == (998, f"{PROCESS}.1000")
        assert counters.dropped == 998


def test_a_gap_stands_where_messages_are_missing(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4, 5))
    received = connection.take_waiting()
    connection.offer(batch(6))
    received += connection.take_waiting()
    said = events(received)
    assert [event.event for event in said] == ["message"] * 3 + ["gap", "message"]
    assert said[3].json()["dropped"] == 2
    assert said[4].data == "6"


def test_a_loss_is_declared_once(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4))
    connection.take_waiting()
    assert connection.take_waiting() == b""


def test_nothing_older_than_its_joining_is_taken(connection: Connection) -> None:
    connection.since = 2
    connection.offer(batch(1, 2))
    connection.offer(batch(2, 3))
    assert waiting(connection) == ["3"]


def test_a_busy_client_gets_the_latest_heartbeat_later_and_once(connection: Connection) -> None:
    client = Client(connection)
    client.busy = True
    for text in (b"first", b"second"):
        connection.tell("heartbeat", Batch.notice(b"event: heartbeat\ndata: %b\n\n" % text))
    assert client.received == b""
    client.catch_up()
    assert client.data == ["second"]
    client.catch_up()
    assert client.data == ["second"]


def test_notices_of_different_kinds_all_wait(connection: Connection) -> None:
    connection.tell("heartbeat", Batch.notice(b"data: heartbeat\n\n"))
    connection.tell("redis_reconnected", Batch.notice(b"data: gap\n\n"))
    assert waiting(connection) == ["heartbeat", "gap"]


def test_notices_take_no_place_of_a_message(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3))
    connection.tell("heartbeat", BEAT)
    assert len(waiting(connection)) == 4


def test_a_notice_stands_before_messages_that_came_after_it(connection: Connection) -> None:
    connection.offer(batch(1))
    connection.tell("redis_reconnected", Batch.notice(b"data: gap\n\n"))
    connection.offer(batch(2))
    assert waiting(connection) == ["1", "gap", "2"]


def test_a_gap_stands_before_notices_that_came_later(connection: Connection) -> None:
    connection.offer(batch(1, 2, 3, 4))
    connection.tell("heartbeat", BEAT)
    said = events(connection.take_waiting())
    assert [event.event for event in said] == ["message"] * 3 + ["gap", "heartbeat"]


def test_after_closing_what_waits_may_be_taken_and_nothing_new_comes(connection: Connection) -> None:
    client = Client(connection)
    client.busy = True
    connection.offer(batch(1))
    connection.close()
    client.busy = False
    connection.offer(batch(2))
    connection.tell("heartbeat", BEAT)
    assert client.closed
    assert client.received == b""
    assert waiting(connection) == ["1"]
    assert connection.take_waiting() == b""


def test_closing_twice_is_harmless(connection: Connection) -> None:
    connection.close()
    connection.close()
    assert connection.closed


async def test_offering_never_waits(connection: Connection) -> None:
    with assert_no_checkpoints():
        for number in range(1, 10):
            connection.offer(batch(number))
            connection.tell("heartbeat", BEAT)
        connection.take_waiting()
        connection.close()


def published(hub: Hub, count: int, *, size: int = 0) -> list[str]:
    """Publish so many messages to user 1, numbered on from the last; their data, `size` characters long."""
    texts = [str(hub.history.latest + number).zfill(size) for number in range(1, count + 1)]
    for text in texts:
        hub.dispatch(note("1", data=text.encode()))
    return texts


@contextmanager
def pages_of(size: int) -> Iterator[None]:
    """Pages of a replay have about `size` bytes."""
    older = mock.patch.object(replay_module, "PAGE_BYTES", size)
    full = mock.patch.object(connection_module, "PAGE_BYTES", size)
    with older, full, mock.patch.object(History.page, "__defaults__", (size, frozenset())):
        yield


def test_a_gap_has_the_id_of_the_last_message_dropped_and_tells_how_to_get_them() -> None:
    hub = new_hub()
    client = Client(joined(hub, capacity=2), busy=True)
    client.catch_up()
    client.busy = True
    published(hub, 5)
    flush_now(hub)
    client.catch_up()
    gap = events(client.received)[-1]
    assert (gap.event, gap.id) == ("gap", f"{PROCESS}.5")
    assert gap.json() == {"reason": "slow_client", "dropped": 3, "replay_after": f"{PROCESS}.2"}
    again = unbegun(hub)
    new_resumer(hub.history).begin(again, Start(gap.json()["replay_after"]))
    assert Client(again).data[1:] == ["3", "4", "5"]


def test_each_gap_tells_how_to_get_what_is_missing_in_its_own_place() -> None:
    hub = new_hub()
    client = Client(joined(hub, capacity=1))
    for _ in range(2):
        client.busy = True
        published(hub, 3)
        flush_now(hub)
        client.catch_up()
    gaps = [event.json() for event in events(client.received) if event.event == "gap"]
    assert [(gap["dropped"], gap["replay_after"]) for gap in gaps] == [
        (2, f"{PROCESS}.1"),
        (2, f"{PROCESS}.4"),
    ]


def test_a_gap_promises_no_replay_of_what_is_no_longer_kept() -> None:
    hub = new_hub(messages=2)
    client = Client(joined(hub, capacity=1))
    client.busy = True
    published(hub, 4)
    flush_now(hub)
    client.catch_up()
    assert events(client.received)[-1].json() == {"reason": "slow_client", "dropped": 3}


def test_one_who_is_to_be_disconnected_gets_what_waits_and_no_gap_and_no_more() -> None:
    counters = Counters()
    connection = live(2, counters=counters, disconnect=True)
    client = Client(connection, busy=True)
    client.catch_up()
    client.busy = True
    connection.offer(batch(1, 2))
    assert not connection.closed
    connection.offer(batch(3, 4))
    connection.offer(batch(5))
    assert connection.closed
    assert client.closed
    client.catch_up()
    assert client.data == ["1", "2"]
    assert (counters.disconnected, counters.dropped) == (1, 0)


def test_one_who_was_disconnected_comes_back_for_the_rest() -> None:
    hub = new_hub()
    client = Client(joined(hub, capacity=2, disconnect=True))
    client.busy = True
    published(hub, 5)
    flush_now(hub)
    client.catch_up()
    again = unbegun(hub)
    new_resumer(hub.history).begin(again, Start(events(client.received)[-1].id))
    assert client.data + Client(again).data[1:] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("busy", [True, False])
def test_until_it_begins_a_connection_is_told_nothing_but_heartbeats(busy: bool) -> None:
    hub = new_hub()
    connection = unbegun(hub)
    client = Client(connection, busy=busy)
    published(hub, 2)
    flush_now(hub)
    hub.announce_gap("redis_reconnected")
    flush_now(hub)
    connection.tell("heartbeat", BEAT)
    connection.tell("heartbeat", BEAT)
    client.take_page()
    assert client.names == ["heartbeat"] * (1 if busy else 2)
    assert client.take_page() == b""
    assert not connection.catching_up


@pytest.mark.parametrize("order", ["attach, begin", "begin, attach"])
def test_an_outlet_gets_the_beginning_whichever_came_first(order: str) -> None:
    hub = new_hub()
    published(hub, 3)
    connection = unbegun(hub)
    if order == "attach, begin":
        client = Client(connection)
        assert client.received == b""
        connection.begin(b"data: hello\n\n", 1)
    else:
        connection.begin(b"data: hello\n\n", 1)
        client = Client(connection)
    assert client.data == ["hello", "2", "3"]
    assert not connection.catching_up


def test_what_is_older_stands_between_the_greeting_and_what_is_kept() -> None:
    hub = new_hub()
    published(hub, 2)
    connection = unbegun(hub)
    connection.begin(b"data: hello\n\n", 1, [b"data: x\n\n", b"data: y\n\n"])
    assert Client(connection).data == ["hello", "x", "y", "2"]


def test_what_is_older_comes_in_pages_too() -> None:
    connection = unbegun(new_hub())
    frame = b"data: %b\n\n" % (b"x" * 20_000)
    connection.begin(b"", 0, [frame] * 10)
    pages = []
    while page := connection.take_waiting():
        pages.append(page)
    assert b"".join(pages) == frame * 10
    assert [len(page) for page in pages] == [4 * len(frame), 4 * len(frame), 2 * len(frame)]


def test_only_the_messages_of_its_user_and_of_everybody_are_replayed() -> None:
    hub = new_hub()
    for user, data in (("1", b"1"), ("2", b"secret"), (None, b"3"), ("2", b"secret"), ("1", b"5")):
        hub.dispatch(note(*([user] if user else []), data=data))
    assert Client(joined(hub, after=0)).data == ["1", "3", "5"]


def test_a_replay_larger_than_the_buffer_arrives_whole() -> None:
    hub = new_hub()
    texts = published(hub, 500)
    connection = joined(hub, capacity=1, after=0)
    client = Client(connection, busy=True)
    texts += published(hub, 500)
    flush_now(hub)
    client.catch_up()
    assert client.data == texts
    assert hub.counters.dropped == 0


def test_a_replay_comes_in_pages_of_bounded_size() -> None:
    hub = new_hub()
    texts = published(hub, 40, size=10_000)
    connection = joined(hub, after=0)
    client = Client(connection, busy=True)
    sizes = []
    while connection.catching_up:
        sizes.append(len(client.take_page()))
    assert client.data == texts
    assert all(PAGE_BYTES <= size < PAGE_BYTES + 11_000 for size in sizes[:-1])
    assert len(sizes) > 5


def test_what_is_published_while_a_client_catches_up_comes_after_its_replay_and_once() -> None:
    hub = new_hub()
    texts = published(hub, 3)
    connection = joined(hub, after=0)
    client = Client(connection, busy=True)
    with pages_of(1):
        client.take_page()
        texts += published(hub, 2)
        flush_now(hub)
        client.take_page()
        texts += published(hub, 2)  # kept, but not yet offered when the replay comes to its end
        client.catch_up()
    flush_now(hub)
    texts += published(hub, 1)
    flush_now(hub)
    assert client.data == texts


def test_what_waited_for_the_flush_when_the_replay_ended_is_not_sent_again() -> None:
    hub = new_hub()
    connection = joined(hub, after=0)
    published(hub, 2)
    client = Client(connection)
    assert client.data == ["1", "2"]
    published(hub, 1)
    flush_now(hub)
    assert client.data == ["1", "2", "3"]


def test_a_heartbeat_goes_out_with_the_next_page_of_a_replay() -> None:
    hub = new_hub()
    published(hub, 3)
    connection = joined(hub, after=0)
    client = Client(connection, busy=True)
    with pages_of(1):
        client.take_page()
        client.busy = False  # there would be room for it: but pages take turns
        connection.tell("heartbeat", BEAT)
        connection.tell("heartbeat", BEAT)
        assert client.names == ["message"]
        client.catch_up()
    assert client.names == ["message", "heartbeat", "message", "message"]
    assert connection.take_waiting() == b""


def test_a_gap_that_is_announced_while_a_client_catches_up_is_told_in_its_place_and_once() -> None:
    hub = new_hub()
    published(hub, 2)
    client = Client(joined(hub, after=0), busy=True)
    flush_now(hub)
    hub.announce_gap("redis_reconnected")
    flush_now(hub)
    published(hub, 1)
    flush_now(hub)
    client.catch_up()
    assert client.names == ["message", "message", "gap", "message"]


def test_one_who_catches_up_too_slowly_is_told_what_is_gone_and_gets_the_rest() -> None:
    hub = new_hub(messages=3)
    published(hub, 3)
    connection = joined(hub, after=0)
    client = Client(connection, busy=True)
    with pages_of(1):
        client.take_page()
        published(hub, 4)
        flush_now(hub)
        client.catch_up()
    said = events(client.received)
    assert [event.event for event in said] == ["message", "gap"] + ["message"] * 3
    assert said[1].json() == {"reason": "history_expired", "dropped": None}
    assert said[1].id == f"{PROCESS}.4"
    assert [event.data for event in said[2:]] == ["5", "6", "7"]
    published(hub, 1)
    flush_now(hub)
    assert client.data[-1] == "8"


def test_one_who_waits_for_what_only_the_stream_knows_is_told_heartbeats_until_then() -> None:
    hub = new_hub(messages=2, has_log=True)
    resumer = new_resumer(hub.history)
    connection = unbegun(hub, recovery=resumer)
    client = Client(connection, busy=True)
    for number in range(1, 5):
        hub.dispatch(note("1", data=b"%d" % number), (number, 0))
        if number == 2:
            resumer.begin(connection, Start("1-0"))
            with pages_of(1):
                client.take_page()  # the greeting
    flush_now(hub)
    client.catch_up()
    connection.tell("heartbeat", BEAT)
    hub.dispatch(note("1", data=b"5"), (5, 0))
    flush_now(hub)
    assert client.names == ["connected", "heartbeat"]
    (replay,) = resumer.take_pending()
    assert replay.after == (1, 0)
    replay.older = [b"id: %d-0\ndata: %d\n\n" % (number, number) for number in (2, 3)]
    resumer.answer(replay, 3, (3, 0))
    assert client.data[2:] == ["2", "3", "4", "5"]
    assert client.names[2:] == ["message"] * 4


LAST_WORDS = b"event: draining\ndata: {}\n\n"


@pytest.mark.parametrize("attached", [True, False])
def test_one_who_has_not_begun_gets_nothing_but_the_last_words(attached: bool) -> None:
    hub = new_hub()
    published(hub, 2)
    connection = unbegun(hub)
    client = Client(connection) if attached else None
    connection.end(LAST_WORDS)
    client = client or Client(connection)
    assert client.received == LAST_WORDS
    assert client.closed
    assert connection.take_waiting() == b""


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_one_who_catches_up_gets_the_last_words_at_once_and_comes_back_for_the_rest(taken: int) -> None:
    """What it may see is what it has taken by then: its token has expired, say."""
    hub = new_hub()
    published(hub, 5)
    resumer = new_resumer(hub.history)
    connection = unbegun(hub, recovery=resumer)
    resumer.begin(connection, Start(f"{PROCESS}.1"))
    client = Client(connection, busy=True)
    with pages_of(1):
        for _ in range(taken):
            client.take_page()
        connection.end(LAST_WORDS)
        published(hub, 2)
        flush_now(hub)
        client.catch_up()
        assert client.closed
        assert client.names == ["connected"] + ["message"] * max(0, taken - 1) + ["draining"]
        again = unbegun(hub)
        resumer.begin(again, Start(events(client.received)[-1].id))
    assert client.data[1:-1] + Client(again).data[1:] == ["2", "3", "4", "5", "6", "7"]


def test_one_who_catches_up_when_the_service_stops_gets_no_more_than_it_has_taken() -> None:
    hub = new_hub()
    published(hub, 3)
    client = Client(joined(hub, after=0), busy=True)
    with pages_of(1):
        client.take_page()
        hub.close()
        client.catch_up()
    assert client.closed
    assert client.data == ["1"]


def test_one_who_begins_after_its_end_is_greeted_and_told_no_more() -> None:
    hub = new_hub()
    published(hub, 3)
    connection = unbegun(hub)
    connection.close()
    connection.begin(b"data: hello\n\n", 0, [b"data: older\n\n"])
    client = Client(connection)
    client.catch_up()
    assert client.data == ["hello"]


def test_from_one_who_has_left_nothing_can_be_taken() -> None:
    hub = new_hub()
    published(hub, 3)
    connection = joined(hub, after=0)
    hub.leave(connection)
    assert connection.take_waiting() == b""
    busy = joined(hub)
    Client(busy).busy = True
    published(hub, 20)
    flush_now(hub)
    hub.leave(busy)
    assert busy.take_waiting() == b""


def test_one_who_listens_gets_the_last_words_at_once(connection: Connection) -> None:
    client = Client(connection)
    connection.end(LAST_WORDS)
    assert client.received == LAST_WORDS
    assert client.closed


def test_one_who_is_busy_gets_the_last_words_after_all_that_waits(connection: Connection) -> None:
    client = Client(connection)
    client.busy = True
    connection.offer(batch(1, 2, 3, 4))
    connection.tell("heartbeat", BEAT)
    connection.end(LAST_WORDS)
    assert client.closed
    client.catch_up()
    assert client.names == ["message"] * 3 + ["gap", "heartbeat", "draining"]


def test_an_end_without_words_is_an_end(connection: Connection) -> None:
    client = Client(connection)
    connection.end(b"")
    assert client.closed
    assert client.received == b""
    assert connection.take_waiting() == b""


@pytest.mark.parametrize("began", [True, False])
def test_ending_what_is_closed_says_nothing(began: bool) -> None:
    connection = live() if began else unbegun(new_hub())
    client = Client(connection)
    connection.close()
    connection.end(LAST_WORDS)
    assert connection.take_waiting() == b""
    assert client.received == b""


class Returning:
    """A browser that comes back with the last id it has seen. What it gets is compared with what was owed."""

    def __init__(self, hub: Hub, capacity: int, *, disconnect: bool) -> None:
        self.hub = hub
        self.resumer = new_resumer(hub.history)
        self.capacity = capacity
        self.disconnect = disconnect
        self.last_id: str | None = None
        self.come_back()

    def come_back(self) -> None:
        if self.last_id is None:
            self.next = self.hub.history.latest + 1
            self.unsure = False
        connection = unbegun(
            self.hub, capacity=self.capacity, disconnect=self.disconnect, recovery=self.resumer
        )
        self.resumer.begin(connection, Start(self.last_id))
        self.connection = connection
        self.client = Client(connection)
        self.read()

    def leave(self) -> None:
        """With what it has: what waits for it is lost."""
        self.read()
        self.hub.leave(self.connection)

    def read(self) -> None:
        for event in events(self.client.received):
            self.last_id = event.id or self.last_id
            if event.event == "gap":
                self._missing(event.json()["dropped"])
            elif event.event == "message":
                number = int(event.data)
                assert number >= self.next if self.unsure else number == self.next
                self.next, self.unsure = number + 1, False
        self.client.received = b""

    def _missing(self, dropped: int | None) -> None:
        if dropped is None:
            self.unsure = True
        else:
            self.next += dropped


RETURNS = st.lists(
    st.sampled_from(["publish"] * 3 + ["flush", "flush", "busy", "page", "catch up", "leave", "beat"]),
    max_size=60,
)


@given(RETURNS, st.integers(1, 3), st.booleans(), st.sampled_from([3, 1000]))
def test_whoever_comes_back_gets_each_message_once_and_in_order_or_is_told_what_is_missing(
    actions: list[str], capacity: int, disconnect: bool, kept: int
) -> None:
    hub = new_hub(messages=kept)
    with pages_of(1):
        browser = Returning(hub, capacity, disconnect=disconnect)
        for action in actions:
            if action == "publish":
                published(hub, 1)
            elif action == "flush":
                flush_now(hub)
            elif action == "busy":
                browser.client.busy = True
            elif action == "page":
                browser.client.take_page()
            elif action == "catch up":
                browser.client.catch_up()
            elif action == "beat":
                browser.connection.tell("heartbeat", BEAT)
            else:
                browser.leave()
                browser.come_back()
                browser.client.busy = bool(capacity % 2)
            browser.read()
        browser.leave()
        browser.come_back()
    assert browser.unsure or browser.next == hub.history.latest + 1
    assert not (browser.unsure and kept == 1000)


def test_whoever_falls_behind_what_is_kept_waits_and_goes_on() -> None:
    hub = new_hub(messages=1, has_log=True)
    hub.history.read_up_to((0, 0))
    resumer = new_resumer(hub.history)
    connection = unbegun(hub, recovery=resumer)
    resumer.begin(connection, Start("0-0"))
    hub.dispatch(note("1"), (1, 0))
    hub.dispatch(note("1"), (2, 0))
    states = []
    connection.take_waiting()
    states.append(connection.state)
    (replay,) = resumer.take_pending()
    resumer.answer(replay, 1, (1, 0))
    states.append(connection.state)
    connection.take_waiting()
    states.append(connection.state)
    assert states == [State.WAITING, State.CATCHING_UP, State.LIVE]


def test_who_is_live_and_owed_nothing_holds_nothing_of_its_replay() -> None:
    connection = live()
    assert (connection._replay, connection._owed) == (None, None)
