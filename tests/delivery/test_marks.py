"""Messages that are state, and messages that expire."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import Client, events, flush_now, joined, new_hub
from trio_sse.delivery import connection as connection_module
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import decode


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub whose clock is also that of the publishers."""
    monkeypatch.setattr(time, "time", clock)
    return new_hub(clock=clock)


def publish(hub: Hub, **message: Any) -> None:
    hub.dispatch(decode(json.dumps({"user_id": "1", "created_at": "x", **message}).encode(), 65536))
    flush_now(hub)


def slow(hub: Hub, *topics: str, capacity: int) -> Client:
    """A client that takes nothing any more."""
    client = Client(joined(hub, topics=topics, capacity=capacity))
    client.busy = True
    return client


def said(client: Client) -> list[Any]:
    """The text of each message, and what each gap has dropped."""
    return [
        event.json()["dropped"] if event.event == "gap" else event.json()["message"]
        for event in events(client.received)
    ]


def test_a_slow_client_gets_the_newest_of_each_key_and_every_event(hub: Hub) -> None:
    client = slow(hub, capacity=2)
    for number in range(100):
        publish(hub, key=f"k{number % 3}", message=f"state {number}")
    publish(hub, message="event")
    client.catch_up()
    assert said(client) == ["state 97", "state 98", "state 99", "event"]
    assert (hub.counters.superseded, hub.counters.dropped) == (97, 0)


def test_of_events_none_is_superseded_and_a_gap_stands_in_its_place(hub: Hub) -> None:
    client = slow(hub, capacity=1)
    publish(hub, message="first")
    publish(hub, message="lost")
    publish(hub, key="k", message="state")
    publish(hub, message="lost too")
    client.catch_up()
    assert said(client) == ["first", 1, "state", 1]
    publish(hub, message="last")
    assert said(client)[-1] == "last"


def test_ids_only_grow_whatever_waits(hub: Hub) -> None:
    """A client that is cut off in between would otherwise get a message twice."""
    client = slow(hub, capacity=1)
    connection = hub.connections[0]
    for number in range(30):
        publish(hub, message=f"event {number}", **({"key": f"k{number % 4}"} if number % 3 else {}))
        if number % 7 == 0:
            client.take_page()
    client.catch_up()
    ids = [int(event.id.rpartition(".")[2]) for event in events(client.received)]
    assert ids == sorted(set(ids))
    assert connection._owed is None


def test_the_same_key_for_others_is_another_thing(hub: Hub) -> None:
    client = slow(hub, "news", capacity=1)
    publish(hub, key="k", message="of the user")
    publish(hub, user_id=None, topic="news", key="k", message="of the topic")
    publish(hub, topic="news", key="k", message="of both")
    publish(hub, user_id="*", key="k", message="of all")
    client.catch_up()
    assert said(client) == ["of the user", "of the topic", "of both", "of all"]


def test_the_keys_that_wait_are_bounded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MOST_SLOTS", 3)
    client = slow(hub, capacity=1)
    for number in range(6):
        publish(hub, key=f"k{number}", message=number)
    publish(hub, key="k0", message="new")
    client.catch_up()
    assert said(client) == [1, 2, 3, 2, "new"]


def test_the_bytes_of_states_that_wait_are_bounded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slow client gets a copy of its own when they leave."""
    monkeypatch.setattr(connection_module, "MOST_STATE_BYTES", 3000)
    client = slow(hub, capacity=1)
    for number in range(6):
        publish(hub, key=f"k{number}", message=f"{number}" * 1000)
    publish(hub, key="k0", message="new")
    publish(hub, key="k6", message="6" * 900)
    client.catch_up()
    assert [text if isinstance(text, int) else text[:3] for text in said(client)] == [
        "111",
        "222",
        3,
        "new",
        "666",
    ]
    for number in range(6):
        publish(hub, key=f"k{number}", message="again")
    assert said(client)[-6:] == ["again"] * 6


def test_what_has_expired_is_neither_taken_from_the_buffer_nor_replayed(hub: Hub, clock: Clock) -> None:
    client = slow(hub, capacity=5)
    publish(hub, message="short", ttl=5)
    publish(hub, message="long", ttl=50)
    publish(hub, message="for ever")
    publish(hub, key="k", message="state", expires_at=clock.now + 5)
    clock.now += 6
    client.catch_up()
    assert said(client) == ["long", "for ever"]
    assert hub.counters.expired == 2
    again = Client(joined(hub, after=0))
    assert said(again) == ["long", "for ever"]
    assert hub.history.count("1", 0) == 2
    assert hub.history.rewound("1", 1) == 2


def test_what_comes_too_late_goes_to_nobody(hub: Hub, clock: Clock) -> None:
    client = Client(joined(hub))
    publish(hub, message="late", expires_at=clock.now - 1)
    publish(hub, message="never", ttl=0)
    publish(hub, message="in time", ttl=1)
    assert said(client) == ["in time"]
    assert (hub.counters.expired, hub.history.latest) == (2, 1)


def test_an_idle_client_gets_it_at_once_however_short_its_life_is(hub: Hub, clock: Clock) -> None:
    client = Client(joined(hub))
    publish(hub, key="k", message="now", ttl=0.001)
    assert said(client) == ["now"]


def test_what_waited_in_between_no_longer_parts_two_gaps(hub: Hub) -> None:
    client = slow(hub, capacity=1)
    publish(hub, message="first")
    for number in range(100):
        publish(hub, message="lost")
        publish(hub, key=f"k{number % 2}", message=number)
    owed = hub.connections[0]._owed
    assert owed is not None
    assert len(owed._lost) <= 6, "however often it came"
    client.catch_up()
    assert said(client) == ["first", 99, 98, 1, 99]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.just("")),
        st.tuples(st.just("state"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["busy", "take", "catch up"]), st.just("")),
    ),
    max_size=50,
)


@given(STEPS, st.integers(1, 3))
def test_events_are_received_or_declared_and_of_states_the_newest_is_received(
    steps: list[tuple[str, str]], capacity: int
) -> None:
    hub = new_hub()
    client = Client(joined(hub, capacity=capacity))
    newest: dict[str, int] = {}
    published: list[int] = []
    for number, (what, key) in enumerate(steps):
        if what in ("event", "state"):
            publish(hub, message=number, **({"key": key} if key else {}))
            if key:
                newest[key] = number
            else:
                published.append(number)
        elif what == "busy":
            client.busy = True
        elif what == "take":
            client.take_page()
        else:
            client.catch_up()
    client.catch_up()
    heard = events(client.received)
    numbers = [event.json()["message"] for event in heard if event.event == "message"]
    assert numbers == sorted(numbers)
    states = {number for number in numbers if steps[number][0] == "state"}
    assert set(newest.values()) <= states
    states_published = sum(what == "state" for what, _ in steps)
    assert len(states) + hub.counters.superseded == states_published
    missing = 0  # in the place that was reached
    unheard = [number for number in published if number not in numbers]
    for event in heard:
        if event.event == "gap":
            missing += event.json()["dropped"]
        elif event.event == "message":
            assert sum(number < event.json()["message"] for number in unheard) == missing
    assert missing == len(unheard)


@given(STEPS, st.integers(1, 3), st.data())
def test_wherever_a_slow_client_is_cut_off_no_event_is_missing_without_a_word(
    steps: list[tuple[str, str]], capacity: int, data: st.DataObject
) -> None:
    """It comes back with the last id that it saw."""
    hub = new_hub()
    client = slow(hub, capacity=capacity)
    expected: list[int] = []
    for number, (what, key) in enumerate(steps):
        if what in ("event", "state"):
            publish(hub, message=number, **({"key": key} if key else {}))
            expected += [] if key else [number]
        elif what == "take":
            client.take_page()
    client.catch_up()
    whole = events(client.received)
    seen = whole[: data.draw(st.integers(0, len(whole)))]
    after = int(next((event.id for event in reversed(seen) if event.id), "x.0").rpartition(".")[2])
    back = Client(joined(hub, after=after))
    told = seen + events(back.received)
    numbers = [event.json()["message"] for event in told if event.event == "message"]
    assert numbers == sorted(set(numbers))
    dropped = sum(event.json()["dropped"] for event in told if event.event == "gap")
    got = [number for number in numbers if steps[number][0] == "event"]
    assert len(got) + dropped == len(expected)
