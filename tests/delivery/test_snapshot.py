"""The newest message of each key."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import PROCESS, Client, events, flush_now, new_history, unbegun
from trio_sse.counters import Counters
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import decode
from trio_sse.delivery.resume import Resumer, Start
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.targets import Followed, followed, topic


class World:
    """A hub that keeps snapshots, and clients that begin with one."""

    def __init__(self, most: int = 100, max_bytes: int = 1 << 30) -> None:
        self.now = 0.0
        self.snapshot = Snapshot(most, max_bytes)
        history = new_history(clock=lambda: self.now)
        self.hub = Hub(
            Counters(), history, heartbeat_seconds=30.0, snapshot=self.snapshot, clock=lambda: self.now
        )
        self.resumer = Resumer(history, heartbeat_seconds=30.0, snapshot=self.snapshot)

    def publish(self, **message: Any) -> None:
        self.hub.dispatch(decode(json.dumps({"user_id": "1", **message}).encode(), 1 << 20))
        flush_now(self.hub)

    def client(self, user_id: str | None = "1", *topics: str, **start: Any) -> Client:
        connection = unbegun(self.hub, user_id, topics=topics, recovery=self.resumer)
        self.resumer.begin(connection, Start(**{"snapshot": True, **start}))
        return Client(connection)


def said(client: Client) -> list[Any]:
    return [
        event.json()["message"] if event.event == "message" else event.event
        for event in events(client.received)
    ]


def test_a_client_begins_with_the_newest_of_each_key_it_follows_and_then_is_live() -> None:
    world = World()
    world.publish(key="a", message=1)
    world.publish(key="b", message=2)
    world.publish(key="a", message=3)
    world.publish(message="an event")
    world.publish(user_id=None, topic="news", key="a", message=4)
    world.publish(user_id="*", key="c", message=5)
    world.publish(user_id="2", key="a", message="another's")
    client = world.client("1", "news")
    world.publish(key="a", message="live")
    assert said(client) == ["connected", 2, 3, 4, 5, "snapshot", "live"]
    assert said(world.client(None, "news")) == ["connected", 4, 5, "snapshot"]
    assert said(world.client(snapshot=False)) == ["connected"]


def test_until_the_snapshot_is_complete_the_client_has_no_id() -> None:
    """Cut off before, it comes back for the whole of it."""
    world = World()
    for number in range(3):
        world.publish(key=str(number), message=number)
    heard = events(world.client().received)
    assert [event.id for event in heard[:-1]] == [""] * 4
    assert (heard[-1].event, heard[-1].json(), heard[-1].id) == ("snapshot", {"keys": 3}, f"{PROCESS}.3")


def test_null_forgets_a_key_and_is_told() -> None:
    world = World()
    world.publish(key="a", message=1)
    client = world.client()
    world.publish(key="a", message=None)
    assert said(client) == ["connected", 1, "snapshot", None]
    assert said(world.client()) == ["connected", "snapshot"]
    assert len(world.snapshot) == 0


def test_what_has_expired_is_in_no_snapshot() -> None:
    world = World()
    world.publish(key="a", message=1, ttl=10)
    assert said(world.client()) == ["connected", 1, "snapshot"]
    world.now += 11
    assert said(world.client()) == ["connected", "snapshot"]


@pytest.mark.parametrize("late", [{"ttl": 0}, {"expires_at": 5}, {"expires_at": 5, "message": None}])
def test_a_newest_state_that_comes_too_late_ends_the_one_before(late: dict[str, Any]) -> None:
    """What was so before it is no more so than if it had come in time, and expired since."""
    world = World()
    world.publish(key="a", message=1)
    world.publish(key="b", message=2)
    world.publish(**{"key": "a", "message": 3, **late})
    assert said(world.client()) == ["connected", 2, "snapshot"]


def test_a_snapshot_from_before_this_process_has_no_state_that_an_expired_one_ended() -> None:
    world = World()
    now = round(time.time())
    for seconds_ago, message in ((20, {"key": "a"}), (19, {"key": "b"}), (10, {"key": "a", "ttl": 5})):
        entry = (1000 * (now - seconds_ago), 0)
        payload = json.dumps({"user_id": "1", "message": seconds_ago, **message}).encode()
        world.hub.remember(decode(payload, 1 << 20, entry), entry, seconds_ago)
    assert said(world.client()) == ["connected", 19, "snapshot"]


def test_who_resumes_has_its_state_already() -> None:
    world = World()
    world.publish(key="a", message=1)
    assert said(world.client(last_event_id=f"{PROCESS}.1")) == ["connected"]


def test_a_snapshot_may_be_followed_by_the_last_messages() -> None:
    world = World()
    world.publish(key="a", message=1)
    world.publish(message=2)
    assert said(world.client(rewind=1)) == ["connected", 1, "snapshot", 2]


def test_a_state_that_the_last_messages_have_comes_with_them_alone() -> None:
    """Each message once, and no older state behind a newer one."""
    world = World()
    world.publish(key="a", message=1)
    world.publish(key="b", message=2)
    world.publish(message=3)
    world.publish(key="a", message=4)
    client = world.client(rewind=3)
    assert said(client) == ["connected", "snapshot", 2, 3, 4]
    assert events(client.received)[1].json() == {"keys": 0}
    assert said(world.client(rewind=2)) == ["connected", 2, "snapshot", 3, 4]
    assert said(world.client(rewind=9)) == ["connected", "snapshot", 1, 2, 3, 4]


def test_where_the_past_is_not_known_a_gap_stands_behind_the_snapshot() -> None:
    world = World()
    world.publish(key="a", message=1)
    assert said(world.client(seconds=5.0)) == ["connected", "snapshot", "gap", 1]


def test_a_large_snapshot_is_taken_page_by_page() -> None:
    world = World()
    for number in range(10):
        world.publish(key=str(number), message="x" * (PAGE_BYTES // 2))
    client = world.client()
    assert len(said(client)) == 12
    connection = unbegun(world.hub, recovery=world.resumer)
    world.resumer.begin(connection, Start(snapshot=True))
    assert len(connection.take_waiting()) < 2 * PAGE_BYTES
    world.hub.leave(connection)


@pytest.mark.parametrize(("most", "max_bytes"), [(3, 1 << 30), (1000, 3 * 500)])
def test_it_is_bounded_and_the_oldest_goes_first(most: int, max_bytes: int) -> None:
    snapshot = Snapshot(most, max_bytes)
    for number in range(10):
        snapshot.put(("ann",), "often", (2 * number, b"often", math.inf))
        snapshot.put(("ann",), str(number), (2 * number + 1, b"%d" % number, math.inf))
    assert snapshot.frames("ann", 0) == [b"8", b"often", b"9"]
    assert len(snapshot) == 3
    assert len(snapshot._by_target["ann"]) == 3


def test_a_target_may_be_forgotten() -> None:
    snapshot = Snapshot(10, 1 << 20)
    snapshot.put(("ann", "bob"), "a", (1, b"a", math.inf))
    snapshot.put(("ann",), "b", (2, b"b", math.inf))
    snapshot.forget("ann")
    snapshot.forget("nobody")
    assert snapshot.frames("ann", 0) == []
    assert snapshot.frames("bob", 0) == [b"a"]
    assert len(snapshot) == 1


def test_without_room_there_is_none() -> None:
    snapshot = Snapshot(0, 0)
    snapshot.put(("ann",), "a", (1, b"a", math.inf))
    assert (len(snapshot), snapshot._by_target, snapshot._bytes) == (0, {}, 0)


TARGETS = [("ann",), (topic("news"),), ("ann", topic("news")), None]
PUTS = st.lists(
    st.tuples(st.sampled_from(TARGETS), st.sampled_from("abc"), st.booleans(), st.integers(0, 20)),
    max_size=30,
)


@given(PUTS, st.sampled_from([followed("ann", []), followed("ann", ["news"]), followed(None, ["news", "x"])]))
def test_a_snapshot_has_what_a_model_of_ten_lines_has(
    puts: list[tuple[tuple[str, ...] | None, str, bool, int]], follows: Followed
) -> None:
    snapshot, model = Snapshot(1000, 1 << 30), {}
    for sequence, (targets, key, forget, expires) in enumerate(puts):
        part = None if forget else (sequence, b"%d" % sequence, float(expires))
        snapshot.put(targets, key, part)
        for target in targets or (None,):
            model[target, key] = part
    mine = {None, *([follows] if isinstance(follows, str) else follows)}
    expected = {part[:2] for (target, _), part in model.items() if part and target in mine and part[2] > 10}
    assert snapshot.frames(follows, 10) == [frame for _, frame in sorted(expected)]
    until = [frame for sequence, frame in sorted(expected) if sequence <= 5]
    assert snapshot.frames(follows, 10, until=5) == until
    assert len(snapshot) == sum(part is not None for part in model.values())
