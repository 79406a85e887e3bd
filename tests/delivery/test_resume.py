"""Where a client goes on from that comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.inside import PROCESS, Client, events, flush_now, new_history, new_hub, note, unbegun
from trio_sse.delivery import interest
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.event_ids import EntryId, entry_text, parse
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.interest import Interest, Shard
from trio_sse.delivery.notices import farewell
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import FromLog, FromMemory, PendingReplay, Resumer, Start, decide
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.targets import ALL

OTHER = "0123456789ab"


def add(history: History, entry: EntryId | None = None) -> None:
    history.append(None, lambda _: b"x", entry=entry)


def channel_only() -> History:
    """Messages 1 to 5, of which 3, 4 and 5 are kept."""
    history = new_history(messages=3)
    for _ in range(5):
        add(history)
    return history


def log_only() -> History:
    """The entries 10-0 to 14-0 with the numbers 1 to 5, of which the last three are kept."""
    history = new_history(messages=3, has_log=True)
    for milliseconds in range(10, 15):
        add(history, (milliseconds, 0))
    return history


def both() -> History:
    """10-0, 11-0, channel, 12-0, channel with the numbers 1 to 5, all kept."""
    history = new_history(has_log=True)
    history.filled_from((9, 0))
    history.read_up_to((9, 0))
    for entry in ((10, 0), (11, 0), None, (12, 0), None):
        add(history, entry)
    return history


def both_without_the_first() -> History:
    """The same, and only 12-0 and the last of the channel are left."""
    history = new_history(messages=2, has_log=True)
    for entry in ((10, 0), (11, 0), None, (12, 0), None):
        add(history, entry)
    return history


@pytest.mark.parametrize(
    ("text", "after", "gap"),
    [
        ("no id of ours", 5, "unknown_id"),
        (f"{PROCESS}.5", 5, None),
        (f"{PROCESS}.4", 4, None),
        (f"{PROCESS}.2", 2, None),  # the last that is gone: what follows is there
        (f"{PROCESS}.1", 2, "history_expired"),
        (f"{PROCESS}.0", 2, "history_expired"),
        (f"{PROCESS}.6", 5, "unknown_id"),  # of the future: another process with the same name
        (f"{OTHER}.4", 5, "unknown_id"),
        ("4-0", 5, "unknown_id"),
        (f"4-0/{OTHER}.4", 5, "unknown_id"),
        (f"4-0/{PROCESS}.4", 4, None),  # there was a log before the last deploy
    ],
)
def test_a_position_of_the_channel_counts_by_its_sequence(text: str, after: int, gap: str | None) -> None:
    assert decide(parse(text), channel_only()) == FromMemory(after, gap)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("14-0", FromMemory(5)),
        ("13-0", FromMemory(4)),
        ("12-9", FromMemory(3)),  # nobody's entry, or one that could not be delivered
        ("11-0", FromMemory(2)),
        ("11-7", FromMemory(2)),
        ("10-0", FromLog((10, 0))),
        ("0-0", FromLog((0, 0))),
        ("14-1", FromLog((14, 1))),  # ahead of us, or made up: the log knows
        (f"13-0/{PROCESS}.4", FromMemory(4)),
        (f"10-0/{PROCESS}.1", FromLog((10, 0), "history_expired")),
        (f"13-0/{OTHER}.4", FromLog((13, 0), "unknown_id", whole=True)),
        (f"13-0/{PROCESS}.6", FromLog((13, 0), "unknown_id", whole=True)),
        (f"10-0/{OTHER}.4", FromLog((10, 0), "unknown_id", whole=True)),
        (f"{PROCESS}.3", FromMemory(3)),
        (f"{PROCESS}.1", FromMemory(2, "history_expired")),
        (f"{OTHER}.3", FromMemory(5, "unknown_id")),
        ("no id of ours", FromMemory(5, "unknown_id")),
    ],
)
def test_a_position_of_the_log_counts_by_its_entry(text: str, place: FromMemory | FromLog) -> None:
    assert decide(parse(text), log_only()) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9-0", FromMemory(0)),
        ("10-0", FromMemory(1)),
        ("11-0", FromMemory(2)),
        ("12-0", FromLog((12, 0), "unknown_id", whole=True)),  # without the channel's: not from here
        ("8-0", FromLog((8, 0), "unknown_id", whole=True)),
        ("13-0", FromLog((13, 0), "unknown_id", whole=True)),
        (f"11-0/{PROCESS}.3", FromMemory(3)),
        (f"12-0/{PROCESS}.4", FromMemory(4)),
        (f"11-0/{OTHER}.3", FromLog((11, 0), "unknown_id", whole=True)),
    ],
)
def test_with_both_in_use_what_the_channel_brought_elsewhere_is_not_taken_for_known(
    text: str, place: FromMemory | FromLog
) -> None:
    assert decide(parse(text), both()) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("11-0", FromLog((11, 0), "unknown_id", whole=True)),
        (f"11-0/{PROCESS}.3", FromMemory(3)),
        (f"11-0/{PROCESS}.2", FromMemory(3, "history_expired")),
    ],
)
def test_what_the_channel_brought_and_is_gone_is_declared(text: str, place: FromMemory | FromLog) -> None:
    assert decide(parse(text), both_without_the_first()) == place


def test_before_the_log_has_been_looked_at_only_it_can_tell() -> None:
    history = new_history(has_log=True)
    assert decide(parse("5-0"), history) == FromLog((5, 0))
    assert decide(parse(f"5-0/{OTHER}.1"), history) == FromLog((5, 0), "unknown_id", whole=True)


class Visit:
    """A client of a hub with a history of its own, from the greeting on."""

    def __init__(self, hub: Hub, last_event_id: str | None = None, resumer: Resumer | None = None) -> None:
        self.resumer = resumer or Resumer(hub.history, heartbeat_seconds=30.0)
        self.connection = unbegun(hub, "ann", recovery=self.resumer)
        self.resumer.begin(self.connection, Start(last_event_id))
        self.client = Client(self.connection)

    @property
    def told(self) -> list[tuple[str, str, Any]]:
        """Of each event its name, the id the client has after it, and its data."""
        return [(event.event, event.id, json.loads(event.data)) for event in events(self.client.received)]


@pytest.fixture
def hub() -> Hub:
    """With the messages 1 to 5, of which the last three are kept."""
    hub = new_hub(messages=3)
    for number in range(1, 6):
        hub.dispatch(note("ann", data=b"%d" % number))
    return hub


def test_a_new_client_is_told_its_place_and_gets_what_is_published_from_now_on(hub: Hub) -> None:
    visit = Visit(hub)
    hub.dispatch(note("ann", data=b"6"))
    flush_now(hub)
    (name, position, data), *rest = visit.told
    assert (name, position, data["replayed"]) == ("connected", f"{PROCESS}.5", 0)
    assert rest == [("message", f"{PROCESS}.6", 6)]


def test_who_comes_back_in_time_gets_what_it_missed_and_then_what_is_new(hub: Hub) -> None:
    visit = Visit(hub, f"{PROCESS}.3")
    hub.dispatch(note("ann", data=b"6"))
    flush_now(hub)
    (name, position, data), *rest = visit.told
    assert (name, position, data["replayed"]) == ("connected", f"{PROCESS}.3", 2)
    assert [data for _, _, data in rest] == [4, 5, 6]


def test_who_comes_back_too_late_is_told_so_and_gets_all_that_is_kept(hub: Hub) -> None:
    (name, position, data), gap, *rest = Visit(hub, f"{PROCESS}.1").told
    assert (name, position, data["replayed"]) == ("connected", "", 3)
    assert gap == ("gap", f"{PROCESS}.2", {"reason": "history_expired", "dropped": None})
    assert [data for _, _, data in rest] == [3, 4, 5]


def test_an_id_of_nobody_s_is_told_so_and_goes_on_from_now(hub: Hub) -> None:
    (name, position, data), *gaps = Visit(hub, "nonsense").told
    assert (name, position, data["replayed"]) == ("connected", "", 0)
    assert gaps == [("gap", f"{PROCESS}.5", {"reason": "unknown_id", "dropped": None})]


def test_what_became_too_old_meanwhile_is_let_go_before_it_is_promised() -> None:
    now = 0.0
    hub = new_hub(seconds=10, clock=lambda: now)
    hub.dispatch(note("ann", data=b"1"))
    now = 11.0
    assert [name for name, _, _ in Visit(hub, f"{PROCESS}.0").told] == ["connected", "gap"]


def test_who_leaves_before_the_answer_is_forgotten() -> None:
    hub = new_hub(has_log=True)
    stays = Visit(hub, "5-0")
    leaves = Visit(hub, "5-0", stays.resumer)
    assert stays.resumer.any_pending.is_set()
    assert stays.client.received == b""
    hub.leave(leaves.connection)
    (replay,) = stays.resumer.take_pending()
    assert replay.connection is stays.connection
    assert not stays.resumer.any_pending.is_set()
    stays.resumer.put_back([replay])
    assert stays.resumer.any_pending.is_set()
    hub.leave(stays.connection)
    stays.resumer.answer(replay, 0, (5, 0))
    assert stays.client.received == b""


def made_anew(hub: Hub, *, was_at: int = 12, goes_on: int = 0) -> None:
    hub.history.restart((goes_on, 0), (was_at, 0))
    hub.announce_gap("redis_reconnected")


def entry(hub: Hub, *numbers: int) -> None:
    for number in numbers:
        hub.dispatch(note("ann", data=b"%d" % number), (number, 0))


@pytest.mark.parametrize(
    ("position", "gap"), [("9-0", True), ("11-0", True), ("12-0", True), ("12-1", False)]
)
def test_an_id_that_may_be_of_the_log_before_is_told_so(position: str, gap: bool) -> None:
    hub = new_hub(has_log=True)
    hub.history.read_up_to((0, 0))
    entry(hub, 10, 11, 12)
    made_anew(hub)
    entry(hub, 11, 20)
    _, *rest = Visit(hub, position).told
    assert ("unknown_id" in [data["reason"] for name, _, data in rest if name == "gap"]) is gap
    assert rest[-1] == ("message", "20-0", 20)


def test_one_who_catches_up_while_the_log_is_made_anew_is_told_what_is_gone() -> None:
    hub = new_hub(has_log=True)
    hub.history.read_up_to((0, 0))
    entry(hub, 10, 11, 12)
    resumer = Resumer(hub.history, heartbeat_seconds=30.0)
    connection = unbegun(hub, "ann", recovery=resumer)
    resumer.begin(connection, Start("10-0"))
    client = Client(connection, busy=True)
    made_anew(hub)
    entry(hub, 5, 20)
    client.catch_up()
    for replay in resumer.take_pending():  # as the lookup answers for what memory has
        resumer.answer(replay, hub.history.sequence_of(replay.after), replay.after)
    assert "gap" in client.names
    assert client.data[-1] == "20"


def test_one_that_waits_for_an_entry_is_pending_again_when_it_has_been_read() -> None:
    hub = new_hub(has_log=True)
    near = Visit(hub, "5-0")
    far = Visit(hub, "7-0", near.resumer)
    for replay in near.resumer.take_pending():
        near.resumer.defer(replay)
    near.resumer.reached((4, 0))
    assert not near.resumer.any_pending.is_set()
    near.resumer.reached((5, 0))
    assert [replay.after for replay in near.resumer.take_pending()] == [(5, 0)]
    near.resumer.reached((8, 0))
    assert [replay.connection for replay in near.resumer.take_pending()] == [far.connection]


def test_of_one_who_leaves_while_it_waits_nothing_is_kept() -> None:
    hub = new_hub(has_log=True)
    first = Visit(hub, "5-0")
    second, third = (Visit(hub, "5-0", first.resumer) for _ in range(2))
    resumer = first.resumer
    replays = {replay.connection: replay for replay in resumer.take_pending()}
    hub.leave(first.connection)
    resumer.defer(replays[first.connection])  # it left while it was looked at
    resumer.defer(replays[second.connection])
    resumer.put_back([replays[third.connection]])
    for left in (second, third):
        hub.leave(left.connection)
    assert (resumer.pending, resumer.deferred) == ({}, {})


class Comeback:
    """A client that is cut off at any byte and comes back with the last id it has, and all it is owed.

    The log is a plain list here, and answers as the reader of a log that has every entry.
    """

    def __init__(self, *, has_log: bool, disconnect: bool, replay_size: int, page: int) -> None:
        self.page = page
        self.hub = new_hub(messages=6, has_log=has_log)
        self.history = self.hub.history
        self.resumer = Resumer(self.history, heartbeat_seconds=30.0)
        if has_log:
            self.history.filled_from((100, 0))
            self.history.read_up_to((100, 0))
        self.disconnect = disconnect
        self.padding = "x" * replay_size
        self.entries: list[tuple[EntryId, int, bytes]] = []
        self.published = 0
        self.owed: set[int] = set()
        self.have: set[int] = set()
        self.excused: set[int] = set()
        self.gap = False
        self.last_id: str | None = None
        self.come()

    def come(self) -> None:
        if self.last_id is None:
            self.owed.clear()
        self.connection = unbegun(
            self.hub, "ann", capacity=2, disconnect=self.disconnect, recovery=self.resumer
        )
        self.resumer.begin(self.connection, Start(self.last_id))
        self.client = Client(self.connection, busy=True)

    def cut(self, share: float) -> None:
        """The client got only this share of the bytes that were written to it."""
        received = self.client.received
        self.look_at(received[: round(share * len(received))])
        self.hub.leave(self.connection)
        self.come()

    def look_at(self, received: bytes) -> None:
        numbers = [0]
        for event in events(received):
            self.last_id = event.id or self.last_id
            if event.event == "gap":
                self.gap = True
            elif event.event == "message":
                number = json.loads(event.data)["number"]
                numbers.append(number)
                missing = {owed for owed in self.owed if owed < number} - self.have - self.excused
                assert self.gap or not missing
                self.excused |= missing
                self.have.add(number)
                self.gap = False
        assert numbers == sorted(set(numbers))

    def publish(self, user: str | None, by_log: bool) -> None:
        self.published += 1
        data = json.dumps({"number": self.published, "padding": self.padding}).encode()
        entry = (100 + self.published, 0) if by_log else None
        self.hub.dispatch(note(*([user] if user else []), data=data), entry)
        if user != "bob":
            self.owed.add(self.published)
            if entry:
                frame = b"id: %b\ndata: %b\n\n" % (entry_text(entry).encode(), data)
                self.entries.append((entry, self.published, frame))

    def answer(self) -> None:
        history = self.history
        for replay in self.resumer.take_pending():
            if replay.rest is not None:
                self.answer_with_a_page(replay, replay.rest)
                continue
            assert history.last_entry is not None
            top, number = history.entry_floor, max(history.floor, history.sequence_of(replay.after))
            if replay.whole:
                assert replay.gap
                top, number = history.last_entry, history.latest
            if replay.gap:  # it stands for all that came by the channel and is not replayed
                entries = {number for _, number, _ in self.entries}
                self.excused |= {owed for owed in self.owed - entries if owed <= number}
            older = [frame for entry, _, frame in self.entries if replay.after < entry <= top]
            replay.count = len(older)
            if replay.count > self.page:
                rest = Rest(replay.after, top, number, (0, 0), 1)
                self.resumer.answer(replay, number, top, rest=rest)
            else:
                replay.older = older
                self.resumer.answer(replay, number, top)

    def answer_with_a_page(self, replay: PendingReplay, rest: Rest) -> None:
        left = [(entry, frame) for entry, _, frame in self.entries if rest.after < entry <= rest.top]
        replay.older = [frame for _, frame in left[: self.page]]
        more = rest._replace(after=left[self.page - 1][0]) if len(left) > self.page else None
        self.resumer.answer(replay, rest.sequence, rest.top, rest=more)

    def end(self) -> None:
        for _ in range(100):
            flush_now(self.hub)
            self.client.catch_up()
            self.answer()
            if self.connection.closed:
                self.cut(1)
        self.look_at(self.client.received)
        assert self.gap or self.owed <= self.have | self.excused


actions = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(["ann", "bob", None]), st.booleans(), st.integers(1, 4)),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.sampled_from(["flush", "answer", "page", "catch up", "busy", "restless", "over"])),
)


@pytest.mark.parametrize("sources", ["channel", "log", "both"])
@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=60), st.booleans(), st.sampled_from([0, 0, 30_000]), st.integers(1, 4))
def test_wherever_a_client_is_cut_off_nothing_is_lost_without_a_word(
    sources: str, steps: list[Any], disconnect: bool, size: int, page: int
) -> None:
    visitor = Comeback(has_log=sources != "channel", disconnect=disconnect, replay_size=size, page=page)
    for step, *values in steps:
        if step == "publish":
            user, by_log, times = values
            for _ in range(times):
                visitor.publish(user, by_log if sources == "both" else sources == "log")
        elif step == "cut":
            visitor.cut(values[0])
        elif step == "flush":
            flush_now(visitor.hub)
        elif step == "answer":
            visitor.answer()
        elif step == "page":
            visitor.client.take_page()
        elif step == "catch up":
            visitor.client.catch_up()
        elif step == "busy":
            visitor.client.busy = True
        elif step == "over":
            visitor.connection.end(farewell("draining", 1))
        else:
            visitor.hub.announce_gap("redis_reconnected")
    visitor.end()


class Past:
    """Messages 0 to 9, one a second from the subscription on, every other for "ann" and a topic."""

    def __init__(self, **bounds: Any) -> None:
        self.now = 100.0
        self.hub = new_hub(clock=lambda: self.now, seconds=1000, **bounds)
        self.hub.history.subscribed()
        for number in range(10):
            self.now += 1
            data = b"%d" % number
            if number % 2:
                self.hub.dispatch(note("ann", topics=["news"], data=data))
            else:
                self.hub.dispatch(note("bob", data=data))

    def begin(self, start: Start, user_id: str | None = "ann", topics: Iterable[str] = ()) -> list[str]:
        """What a client that begins so is told: names of notices, and data of messages."""
        resumer = Resumer(self.hub.history, heartbeat_seconds=30.0)
        connection = unbegun(self.hub, user_id, topics=topics, recovery=resumer)
        resumer.begin(connection, start)
        client = Client(connection)
        self.hub.dispatch(note("ann", data=b"new"))
        flush_now(self.hub)
        said = events(client.received)
        assert said[0].json()["replayed"] == sum(
            event.event == "message" for event in said if event.data != "new"
        )
        return [event.data if event.event == "message" else event.event for event in said]


@pytest.mark.parametrize(("rewind", "data"), [(0, ""), (1, "9"), (3, "579"), (5, "13579"), (99, "13579")])
def test_a_client_may_begin_with_the_last_messages_of_what_it_follows(rewind: int, data: str) -> None:
    assert Past().begin(Start(rewind=rewind)) == ["connected", *data, "new"]
    assert Past().begin(Start(rewind=rewind), topics=["news"]) == ["connected", *data, "new"]


def past_with_a_gap(**bounds: Any) -> Past:
    """Behind the last message there is a gap, and then one message more."""
    past = Past(**bounds)
    past.hub.announce_gap("redis_reconnected")
    past.hub.dispatch(note("ann", data=b"10"))
    return past


@pytest.mark.parametrize("topics", [[], ["news"]])
def test_a_gap_among_the_last_messages_is_none_of_them(topics: list[str]) -> None:
    said = ["connected", "9", "gap", "10", "new"]
    assert past_with_a_gap().begin(Start(rewind=2), topics=topics) == said
    assert past_with_a_gap().begin(Start(f"{PROCESS}.9"), topics=topics) == said


def test_where_fewer_messages_are_kept_a_gap_before_them_is_told() -> None:
    for kept, said in ((3, ["9", "gap", "10"]), (2, ["gap", "10"]), (1, ["10"])):
        assert past_with_a_gap(messages=kept).begin(Start(rewind=9)) == ["connected", *said, "new"]
    assert past_with_a_gap(messages=2).begin(Start(rewind=1)) == ["connected", "10", "new"]


def test_what_is_no_longer_kept_cannot_be_rewound_to() -> None:
    assert Past(messages=3).begin(Start(rewind=3)) == ["connected", "7", "9", "new"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "9"),
        (1.5, "9"),
        (2.5, "79"),
        (3.5, "79"),
        (4, "579"),
        (9.5, "13579"),
        (10, "13579"),
        (10.5, "gap 13579"),
    ],
)
def test_a_client_may_begin_with_what_came_in_the_last_seconds(seconds: float, said: str) -> None:
    """Before the subscription nobody knows what came."""
    gap, _, data = said.rpartition(" ")
    assert Past().begin(Start(seconds=seconds)) == ["connected", *filter(None, [gap]), *data, "new"]


def test_what_came_since_then_and_is_no_longer_kept_is_told() -> None:
    assert Past(messages=3).begin(Start(seconds=2.5)) == ["connected", "7", "9", "new"]
    assert Past(messages=3).begin(Start(seconds=3.5)) == ["connected", "gap", "7", "9", "new"]


@pytest.mark.parametrize(
    ("channel", "said"), [(False, ["connected", "0"]), (True, ["connected", "gap", "0", "1"])]
)
def test_the_log_does_not_know_what_came_by_the_channel_before(channel: bool, said: list[str]) -> None:
    now = 100.0
    hub = new_hub(clock=lambda: now, seconds=1000, has_log=True)
    hub.history.filled_from((0, 0))
    hub.history.subscribed()
    now += 1
    hub.dispatch(note("ann", data=b"0"), (1, 0))
    if channel:
        hub.dispatch(note("ann", data=b"1"))
    connection = unbegun(hub, "ann")
    Resumer(hub.history, heartbeat_seconds=30.0).begin(connection, Start(seconds=5))
    assert [
        event.data if event.event == "message" else event.event
        for event in events(Client(connection).received)
    ] == said


def test_who_resumes_begins_where_it_was_whatever_its_query_says() -> None:
    start = Start(f"{PROCESS}.8", rewind=99, seconds=99)
    assert Past().begin(start) == ["connected", "9", "new"]


def test_connections_have_ids_of_their_own() -> None:
    hub = new_hub()
    resumer = Resumer(hub.history, heartbeat_seconds=30.0)
    ids = set()
    for _ in range(100):
        connection = unbegun(hub, recovery=resumer)
        resumer.begin(connection, Start())
        ids.add(events(Client(connection).received)[0].json()["connection_id"])
    assert len(ids) == 100


class BySubscription:
    """A hub that knows messages of a target only while it is subscribed. Redis confirms at once."""

    def __init__(self) -> None:
        self.now = 100.0
        self.hub = new_hub(clock=lambda: self.now, seconds=1000)
        self.hub.snapshot = Snapshot(10, 1 << 20)
        self.shard = Shard()
        self.interest = Interest(
            self.hub.history, lambda _: self.shard, self.hub.announce_gap_to, self.hub.snapshot.forget
        )
        self.hub.target_listeners.append(self.interest)
        self.interest.followed(ALL)
        self.interest.link_up(self.shard)
        self.hub.history.subscribed()
        self.resumer = Resumer(
            self.hub.history, heartbeat_seconds=30.0, snapshot=self.hub.snapshot, interest=self.interest
        )
        self.confirm()

    def confirm(self) -> None:
        for target in self.shard.take_queue(100):
            self.interest.confirmed(self.shard, target)

    def begin(self, **start: Any) -> tuple[Connection, list[str]]:
        connection = unbegun(self.hub, "ann", recovery=self.resumer)
        self.resumer.begin(connection, Start(**start))
        self.confirm()
        client = Client(connection)
        return connection, [
            event.data if event.event == "message" else event.event for event in events(client.received)
        ]

    def leave_for_good(self, connection: Connection) -> None:
        self.hub.leave(connection)
        self.now += 100
        self.interest.expire()


def test_by_key_nobody_is_given_a_part_of_the_past_as_if_it_were_all() -> None:
    world = BySubscription()
    ann, said = world.begin()
    assert said == ["connected"]
    world.hub.dispatch(note("ann", data=b"1"))
    position = world.hub.history.text(world.hub.history.latest)
    world.leave_for_good(ann)
    world.hub.dispatch(note("bob", data=b"2"))  # one for ann would not come here
    ann, said = world.begin(rewind=20)
    assert said == ["connected"]
    world.hub.leave(ann)
    assert world.begin(last_event_id=position)[1] == ["connected", "gap"]
    assert world.begin(seconds=200)[1] == ["connected", "gap", "1"]
    assert world.begin(seconds=0)[1] == ["connected"]


def test_by_key_a_state_from_before_the_subscription_is_no_snapshot() -> None:
    world = BySubscription()
    ann, _ = world.begin()
    world.hub.dispatch(note("ann", data=b"old", key="price"))
    world.hub.leave(ann)
    ann, said = world.begin(snapshot=True)
    assert said == ["connected", "old", "snapshot"]
    world.leave_for_good(ann)
    world.hub.dispatch(note("bob", "ann", data=b"a copy for bob", key="price"))
    assert world.begin(snapshot=True)[1] == ["connected", "snapshot"]


class Since:
    """In the place of what keeps the subscriptions: subscribed since that sequence and that time."""

    def __init__(self, sequence: int, at: float = 0.0) -> None:
        self.known = interest.Since(sequence, at)
        self.waits: list[Callable[[], None]] = []
        self.forgotten: list[Connection] = []

    def since(self, follows: object) -> interest.Since:
        return self.known

    def when_subscribed(self, connection: Connection, begin: Callable[[], None]) -> None:
        self.waits.append(begin)

    def forget(self, connection: Connection) -> None:
        self.forgotten.append(connection)


def by_key(since: Since, now: float = 0.0, **bounds: Any) -> tuple[Hub, Resumer]:
    """Messages 1 to 5 for ann."""
    hub = new_hub(clock=lambda: now, **bounds)
    for _ in range(5):
        hub.dispatch(note("ann"))
    flush_now(hub)
    known: Any = since
    return hub, Resumer(hub.history, heartbeat_seconds=30.0, interest=known)


def test_by_key_a_stream_begins_when_what_it_follows_is_subscribed() -> None:
    since = Since(0)
    hub, resumer = by_key(since)
    connection = unbegun(hub, "ann", recovery=resumer)
    client = Client(connection)
    resumer.begin(connection, Start())
    assert client.data == []
    hub.dispatch(note("ann", data=b"too early"))
    since.waits[0]()
    hub.dispatch(note("ann", data=b"in time"))
    flush_now(hub)
    assert client.names == ["connected", "message"]
    hub.leave(connection)
    assert connection in since.forgotten


@pytest.mark.parametrize(
    ("start", "since", "at", "gap"),
    [
        (Start(f"{PROCESS}.2"), 2, 0.0, False),
        (Start(f"{PROCESS}.2"), 3, 0.0, True),  # subscribed after the client had that id
        (Start(seconds=50), 0, 50.0, False),
        (Start(seconds=50), 0, 51.0, True),
        (Start(rewind=3), 4, 51.0, False),  # promises nothing
        (Start(), 4, 51.0, False),
        (Start(f"{PROCESS}.2", seconds=50), 2, 51.0, False),  # the id counts
    ],
)
def test_by_key_what_was_published_before_the_subscription_is_told_to_be_missing(
    start: Start, since: int, at: float, gap: bool
) -> None:
    known = Since(since, at)
    hub, resumer = by_key(known, now=100.0)
    hub.history.subscribed()
    hub.history._known_since = 0.0  # its clock stands still
    connection = unbegun(hub, "ann", recovery=resumer)
    client = Client(connection)
    resumer.begin(connection, start)
    known.waits[0]()
    gaps = [json.loads(event.data)["reason"] for event in events(client.received) if event.event == "gap"]
    assert gaps == (["history_expired"] if gap else [])


@pytest.mark.parametrize(("last", "kept"), [(2, 5), (1, 3)], ids=["kept", "no longer kept"])
def test_by_key_nothing_stands_behind_the_gap_that_may_be_older_than_what_is_missing(
    last: int, kept: int
) -> None:
    """Messages are missing up to the subscription, which was after the fourth: only the fifth is replayed."""
    known = Since(4)
    hub, resumer = by_key(known, messages=kept)
    connection = unbegun(hub, "ann", recovery=resumer)
    client = Client(connection)
    resumer.begin(connection, Start(f"{PROCESS}.{last}"))
    known.waits[0]()
    assert client.names == ["connected", "gap", "message"]
    assert [event.id for event in events(client.received)][1:] == [f"{PROCESS}.4", f"{PROCESS}.5"]
