"""Who is here, and what is owed to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from tests.support.inside import PROCESS, Client, events, flush_now, joined, new_hub, note, unbegun
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.targets import ALL, Followed, Target, topic, topic_name


@pytest.fixture
def hub() -> Hub:
    return new_hub()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_message_reaches_all_connections_of_its_user_and_nobody_else(hub: Hub) -> None:
    ann, ann_too, bob = (Client(joined(hub, user)) for user in ("ann", "ann", "bob"))
    hub.dispatch(note("ann", data=b"hello"))
    flush_now(hub)
    assert (ann.data, ann_too.data, bob.data) == (["hello"], ["hello"], [])


def test_a_message_for_several_users_reaches_each_of_them_once(hub: Hub) -> None:
    clients = [Client(joined(hub, user)) for user in ("ann", "bob", "cyd")]
    hub.dispatch(note("ann", "bob", "nobody", data=b"hello"))
    flush_now(hub)
    assert [client.data for client in clients] == [["hello"], ["hello"], []]


def test_a_message_for_everybody_reaches_everybody_between_their_own(hub: Hub) -> None:
    ann, bob = Client(joined(hub, "ann")), Client(joined(hub, "bob"))
    for users, data in ((("ann",), b"1"), ((), b"2"), (("ann",), b"3"), (("bob",), b"4"), ((), b"5")):
        hub.dispatch(note(*users, data=data))
    flush_now(hub)
    assert ann.data == ["1", "2", "3", "5"]
    assert bob.data == ["2", "4", "5"]


def test_messages_have_increasing_ids_of_this_process(hub: Hub) -> None:
    client = Client(joined(hub))
    for _ in range(2):
        hub.dispatch(note("1", event="order"))
    flush_now(hub)
    assert [event.id for event in events(client.received)] == [f"{PROCESS}.1", f"{PROCESS}.2"]
    assert client.names == ["order", "order"]


def test_publish_tells_whether_anybody_here_is_to_get_it(hub: Hub) -> None:
    assert not hub.dispatch(note())
    joined(hub, "ann")
    assert hub.dispatch(note())
    assert hub.dispatch(note("ann", "bob"))
    assert not hub.dispatch(note("bob"))
    assert hub.counters.received == 4


def test_the_flusher_is_woken_only_when_there_is_something_for_somebody(hub: Hub) -> None:
    joined(hub, "ann")
    hub.dispatch(note("bob"))
    assert not hub.pending.is_set()
    hub.dispatch(note("ann"))
    assert hub.pending.is_set()
    flush_now(hub)
    assert not hub.pending.is_set()


def test_what_was_taken_is_not_taken_again(hub: Hub) -> None:
    client = Client(joined(hub))
    hub.dispatch(note("1", data=b"once"))
    flush_now(hub)
    flush_now(hub)
    assert client.data == ["once"]


def test_messages_that_gathered_leave_as_one_batch_for_all_connections_of_a_user(hub: Hub) -> None:
    joined(hub)
    joined(hub)
    hub.dispatch(note("1", data=b"1"))
    hub.dispatch(note("1", data=b"2"))
    ((batch, connections),) = hub.take()
    assert len(connections) == 2
    assert [event.data for event in events(batch.data)] == ["1", "2"]


def test_what_is_for_everybody_is_encoded_once(hub: Hub) -> None:
    joined(hub, "ann")
    joined(hub, "bob")
    hub.dispatch(note())
    (ann, _), (bob, _) = hub.take()
    assert ann is bob


def test_a_connection_gets_what_is_published_after_it_joined_and_nothing_older(hub: Hub) -> None:
    early = Client(joined(hub))
    hub.dispatch(note("1", data=b"old"))
    late = Client(joined(hub))
    hub.dispatch(note("1", data=b"new"))
    flush_now(hub)
    assert (early.data, late.data) == (["old", "new"], ["new"])


def test_from_the_second_on_those_who_follow_a_topic_share_its_text(hub: Hub) -> None:
    """It is most of what a further key costs."""
    _, *several = [joined(hub, "ann", topics=["".join(["ne", "ws"])]) for _ in range(4)]
    alone = joined(hub, None, topics=["".join(["new", "s"])])
    assert all(one.follows[0] is alone.follows for one in several)


def test_a_connection_that_left_holds_nothing_and_gets_nothing(hub: Hub) -> None:
    stays, leaves = joined(hub), joined(hub)
    client = Client(leaves)
    hub.dispatch(note("1"))
    hub.leave(leaves)
    flush_now(hub)
    assert leaves.closed
    assert client.closed
    assert client.received == b""
    assert (len(hub), hub.users) == (1, ["1"])
    hub.leave(stays)
    assert (len(hub), hub.users) == (0, [])


def test_leaving_twice_is_harmless(hub: Hub) -> None:
    stays, leaves = joined(hub), joined(hub)
    hub.leave(leaves)
    hub.leave(leaves)
    assert len(hub) == 1
    assert not stays.closed


def test_a_message_for_one_who_left_before_the_flush_is_nobodys(hub: Hub) -> None:
    connection = joined(hub)
    hub.dispatch(note("1"))
    hub.leave(connection)
    assert list(hub.take()) == []


def test_a_gap_is_announced_to_everybody_and_kept_in_its_place(hub: Hub) -> None:
    clients = [Client(joined(hub, user)) for user in ("ann", "bob")]
    hub.dispatch(note(data=b"before"))
    flush_now(hub)
    hub.announce_gap("redis_reconnected")
    hub.dispatch(note(data=b"behind"))
    flush_now(hub)
    clients.append(Client(joined(hub, "cyd", after=0)))
    for client in clients:
        assert client.data == ["before", '{"reason":"redis_reconnected","dropped":null}', "behind"]
        assert [event.id for event in events(client.received)] == [f"{PROCESS}.{n}" for n in (1, 2, 3)]


def test_closing_ends_every_stream_and_those_that_come_later(hub: Hub) -> None:
    before = joined(hub)
    hub.close()
    after = joined(hub)
    assert before.closed
    assert after.closed
    assert hub.closed
    assert hub.draining
    hub.leave(before)
    hub.leave(after)
    assert (len(hub), hub.users) == (0, [])


def test_heartbeats_are_counted_from_each_ones_own_connecting() -> None:
    clock = Clock()
    hub = new_hub(clock=clock, heartbeat_seconds=30)
    first = Client(joined(hub))
    clock.now = 10
    second = Client(joined(hub))
    assert hub.beat() == pytest.approx(30, abs=0.1)
    clock.now = 30
    assert hub.beat() == pytest.approx(40, abs=0.1)
    assert (first.names, second.names) == (["heartbeat"], [])
    clock.now = 40
    assert hub.beat() == pytest.approx(60, abs=0.1)
    assert (first.names, second.names) == (["heartbeat"], ["heartbeat"])


def test_heartbeats_come_in_turns_so_that_others_get_theirs() -> None:
    clock = Clock()
    hub = new_hub(clock=clock, heartbeat_seconds=30)
    clients = []
    for _ in range(5):
        clients.append(Client(joined(hub)))
        clock.now += 1
    clock.now = 35
    assert hub.beat(most=3) <= clock.now
    assert [len(client.names) for client in clients] == [1, 1, 1, 0, 0]
    assert hub.beat(most=3) == pytest.approx(60, abs=0.1)
    assert [len(client.names) for client in clients] == [1, 1, 1, 1, 1]


def test_one_that_leaves_at_its_heartbeat_has_no_other() -> None:
    """Its socket is broken: the fleet takes it out of the hub while the heartbeat is written."""
    clock = Clock()
    hub = new_hub(clock=clock, heartbeat_seconds=30)
    leaver, stays = joined(hub), joined(hub)

    class Broken(Client):
        def take(self, batch: Batch) -> bool:
            hub.leave(leaver)
            return super().take(batch)

    broken, client = Broken(leaver), Client(stays)
    for clock.now in (30, 60):
        hub.beat()
    assert (broken.names, client.names) == (["heartbeat"], ["heartbeat"] * 2)
    assert hub.connections == [stays]


async def test_whoever_waits_is_told_when_the_flusher_has_taken_what_is_pending(hub: Hub) -> None:
    joined(hub, "ann")
    joined(hub, "ann")
    await hub.wait_taken()  # nothing is
    hub.dispatch(note("ann", data=b"x" * 1000))
    once = hub.pending_bytes
    assert 1000 < once < 1100  # once for both
    hub.dispatch(note(data=b"x" * 1000))
    assert hub.pending_bytes == 2 * once
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.wait_taken)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        flush_now(hub)
    assert hub.pending_bytes == 0


def test_what_is_nobody_s_here_does_not_wait_but_is_kept(hub: Hub) -> None:
    joined(hub, "ann")
    hub.dispatch(note("bob"))
    assert hub.pending_bytes == 0
    assert hub.history.count("bob", 0) == 1


def test_an_entry_from_before_is_kept_and_told_to_nobody() -> None:
    hub = new_hub(has_log=True)
    client = Client(joined(hub, "ann"))
    hub.remember(note("ann", data=b"old"), (5, 0), 10.0)
    flush_now(hub)
    assert client.received == b""
    assert not hub.counters.received
    assert events(hub.history.page("ann", 0)[0])[0].id == "5-0"


def test_with_every_heartbeat_what_is_too_old_is_let_go() -> None:
    """Nobody may publish for a long time: memory is given back all the same."""
    clock = Clock()
    hub = new_hub(clock=clock, seconds=10)
    hub.dispatch(note("ann"))
    clock.now = 11
    hub.beat()
    assert len(hub.history) == 0


async def test_nothing_in_the_hub_lets_anybody_else_run(hub: Hub) -> None:
    with assert_no_checkpoints():
        connection = joined(hub)
        hub.dispatch(note())
        flush_now(hub)
        hub.announce_gap("restarted")
        hub.beat()
        hub.leave(connection)
        hub.close()


@dataclass
class Reader:
    """A connection beside what was published for it: the model that the next test compares with."""

    connection: Connection
    client: Client
    published: list[str] = field(default_factory=list)

    @property
    def follows(self) -> frozenset[str]:
        follows = self.connection.follows
        return frozenset([follows] if isinstance(follows, str) else follows)

    def check_account(self) -> None:
        """Every message came exactly once and in order, or a gap in its place counted it."""
        expected = iter(self.published)
        for event in events(self.client.received):
            if event.event == "gap":
                for _ in range(event.json()["dropped"]):
                    next(expected)
            elif event.event != "heartbeat":
                assert event.data == next(expected)
        assert list(expected) == []


# Two users, and two topics of which one has a user's name.
TARGETS = st.frozensets(st.sampled_from(["ann", "bob", topic("ann"), topic("news")]), min_size=1)
ACTIONS = st.one_of(
    st.tuples(st.just("publish"), TARGETS | st.just(frozenset())),  # to nobody: to everybody
    st.tuples(st.just("publish"), TARGETS | st.just(frozenset())),
    st.tuples(st.just("join"), TARGETS),
    st.tuples(st.sampled_from(["busy", "take", "catch up", "leave", "beat"]), st.integers(0, 3)),
    st.just(("flush", 0)),
)


@given(st.lists(ACTIONS, max_size=60), st.integers(1, 3))
def test_received_and_declared_lost_is_what_was_published_in_order_and_once(
    actions: list[tuple[str, frozenset[str] | int]], capacity: int
) -> None:
    clock = Clock()
    hub = new_hub(clock=clock, heartbeat_seconds=1)
    readers: list[Reader] = []
    gone: list[Reader] = []
    owed: dict[int, list[str]] = {}

    def flush() -> None:
        flush_now(hub)
        for reader in readers:
            reader.published += owed.pop(id(reader), [])

    for number, (action, argument) in enumerate(actions):
        reader = readers[argument % len(readers)] if readers and isinstance(argument, int) else None
        if action == "publish":
            assert isinstance(argument, frozenset)
            hub.dispatch(Notification(tuple(argument) or None, None, b"%d" % number))
            for each in readers:
                if not argument or argument & each.follows:
                    owed.setdefault(id(each), []).append(str(number))
        elif action == "join":
            assert isinstance(argument, frozenset)
            users = [target for target in argument if topic_name(target) is None]
            user = users[0] if users else None
            topics = [name for target in argument if (name := topic_name(target)) is not None]
            connection = joined(hub, user, topics=topics, capacity=capacity)
            readers.append(Reader(connection, Client(connection)))
        elif action == "flush":
            flush()
        elif action == "beat":
            clock.now += 0.7
            hub.beat()
        elif reader is None:
            continue
        elif action == "busy":
            reader.client.busy = True
        elif action == "take":
            reader.client.received += reader.connection.take_waiting()
        elif action == "catch up":
            reader.client.catch_up()
        else:
            reader.client.catch_up()
            hub.leave(reader.connection)
            readers.remove(reader)
            owed.pop(id(reader), None)
            gone.append(reader)
    flush()
    hub.close()
    for reader in readers + gone:
        reader.client.catch_up()
        hub.leave(reader.connection)
        reader.check_account()
    assert (len(hub), hub.users) == (0, [])
    everything = b"".join(reader.client.received for reader in readers + gone)
    dropped = [event.json()["dropped"] for event in events(everything) if event.event == "gap"]
    assert hub.counters.dropped == sum(dropped)


def test_a_gap_for_lost_redis_stands_behind_the_messages_before_it() -> None:
    """Also when a flush of those is under way: who left in between would resume behind messages it never
    got."""
    hub = new_hub()
    quick, slow = Client(joined(hub, "ann")), Client(joined(hub, "ann"))
    slow.busy = True
    hub.dispatch(note("ann", data=b"1"))
    under_way = hub.take()
    hub.dispatch(note("ann", data=b"2"))
    hub.announce_gap("redis_reconnected")
    hub.dispatch(note("ann", data=b"3"))
    for gathered, connections in under_way:
        for connection in connections:
            connection.offer(gathered)
    hub.flushed()
    flush_now(hub)
    slow.catch_up()
    for client in (quick, slow):
        said = events(client.received)
        assert [event.event for event in said] == ["message", "message", "gap", "message"]
        assert [event.id for event in said] == [f"{PROCESS}.{number}" for number in (1, 2, 3, 4)]
    assert hub.counters.dropped == 0


GAP = '{"reason":"redis_reconnected","dropped":null}'


def test_a_gap_for_some_targets_reaches_those_who_follow_one_of_them_once(hub: Hub) -> None:
    ann, bob = Client(joined(hub, "ann", topics=["news"])), Client(joined(hub, "bob"))
    reader = Client(joined(hub, None, topics=["news"]))
    hub.dispatch(note("ann", data=b"before"))
    hub.announce_gap_to("redis_reconnected", ["ann", topic("news"), "nobody"])
    hub.dispatch(note("ann", data=b"after"))
    flush_now(hub)
    assert ann.data == ["before", GAP, "after"]
    assert reader.data == [GAP]
    assert bob.data == []


def test_a_gap_for_nobody_here_wakes_nobody(hub: Hub) -> None:
    joined(hub, "ann")
    hub.announce_gap_to("redis_reconnected", ["bob"])
    assert not hub.pending.is_set()
    assert hub.pending_bytes == 0


def test_a_gap_for_what_is_for_everybody_reaches_everybody(hub: Hub) -> None:
    ann, bob = Client(joined(hub, "ann")), Client(joined(hub, "bob"))
    hub.announce_gap_to("redis_reconnected", ["ann", ALL])
    flush_now(hub)
    assert (ann.data, bob.data) == ([GAP], [GAP])


def test_a_gap_for_some_reaches_those_who_are_catching_up_and_is_no_part_of_a_replay(hub: Hub) -> None:
    for number in range(3):
        hub.dispatch(note("ann", data=b"%d" % number))
    flush_now(hub)
    late = joined(hub, "ann", after=0)
    waiting = unbegun(hub, "ann")
    hub.announce_gap_to("redis_reconnected", ["ann"])
    flush_now(hub)
    assert Client(late).data == ["0", "1", "2", GAP]
    waiting.begin(b"", hub.history.latest)
    assert Client(waiting).data == [GAP]
    assert Client(joined(hub, "ann", after=0)).data == ["0", "1", "2"]


def test_the_id_of_a_gap_for_some_is_behind_what_came_before(hub: Hub) -> None:
    ann = Client(joined(hub, "ann"))
    hub.dispatch(note("ann", data=b"before"))
    hub.announce_gap_to("redis_reconnected", ["ann"])
    flush_now(hub)
    assert [event.id for event in events(ann.received)] == [f"{PROCESS}.1", f"{PROCESS}.2"]


class Listening:
    """Hears all that a hub tells."""

    def __init__(self, hub: Hub) -> None:
        self.heard: list[tuple[str, Followed, int]] = []
        self._hub = hub
        hub.target_listeners.append(self)
        hub.stream_listeners.append(self)

    def followed(self, target: Target) -> None:
        self.heard.append(("followed", target, 0))

    def unfollowed(self, target: Target) -> None:
        self.heard.append(("unfollowed", target, 0))

    def joined(self, follows: Followed) -> None:
        self.heard.append(("joined", follows, self._hub.count("ann")))

    def left(self, follows: Followed) -> None:
        self.heard.append(("left", follows, self._hub.count("ann")))


def test_all_listeners_hear_of_first_and_last_followers_and_of_each_stream() -> None:
    hub = new_hub()
    one, other = Listening(hub), Listening(hub)
    news = topic("news")
    both = joined(hub, "ann", topics=["news"])
    alone = joined(hub, "ann")
    hub.leave(both)
    hub.leave(both)
    hub.leave(alone)
    assert (
        one.heard
        == other.heard
        == [
            ("followed", news, 0),
            ("followed", "ann", 0),
            ("joined", (news, "ann"), 1),
            ("joined", "ann", 2),
            ("unfollowed", news, 0),
            ("left", (news, "ann"), 1),
            ("unfollowed", "ann", 0),
            ("left", "ann", 0),
        ]
    )


def test_of_a_stream_that_a_closed_hub_did_not_take_nobody_hears() -> None:
    hub = new_hub()
    hub.close()
    listening = Listening(hub)
    hub.leave(joined(hub, "ann"))
    assert listening.heard == []
