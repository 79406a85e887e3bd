"""What the service says itself, as a browser reads it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from httpx_sse import ServerSentEvent

from tests.support.inside import events
from trio_sse.delivery.messages import RESERVED_EVENTS
from trio_sse.delivery.notices import RETRY_MILLISECONDS, connected, farewell, gap, heartbeat, service_event


@pytest.fixture(autouse=True)
def _same_jitter_each_time() -> Iterator[None]:
    state = random.getstate()
    random.seed(1)
    yield
    random.setstate(state)


def one(frame: bytes) -> ServerSentEvent:
    (event,) = events(frame)
    return event


def hello(seconds: float = 30.0, position: str | None = "5-0", replayed: int = 0) -> bytes:
    return connected("ann", [], "c0ffee", seconds, position=position, replayed=replayed)


@pytest.mark.parametrize(
    "frame",
    [hello(), gap("slow_client", 3), heartbeat(), farewell("draining", 5), service_event("overloaded", {})],
    ids=range(5),
)
def test_each_is_a_named_event_with_data_whose_name_no_back_end_may_use(frame: bytes) -> None:
    event = one(frame)
    assert event.event in RESERVED_EVENTS
    assert isinstance(event.json(), dict)
    assert frame.endswith(b"\n\n")


def test_the_confirmation_says_who_is_connected_and_from_where_on() -> None:
    event = one(hello(replayed=7))
    assert (event.event, event.id) == ("connected", "5-0")
    data = event.json()
    assert data.pop("server_time").endswith("Z")
    assert data == {"user_id": "ann", "connection_id": "c0ffee", "heartbeat_seconds": 30, "replayed": 7}


def test_before_a_gap_the_confirmation_has_no_id() -> None:
    """Whoever is cut off between the two must come back with the id it had."""
    assert b"id:" not in hello(position=None)


@pytest.mark.parametrize(("seconds", "written"), [(30.0, b":30,"), (0.5, b":0.5,"), (3600.0, b":3600,")])
def test_seconds_are_written_as_people_write_them(seconds: float, written: bytes) -> None:
    assert b'"heartbeat_seconds"' + written in hello(seconds)


def test_browsers_come_back_spread_over_some_seconds() -> None:
    delays = {one(hello()).retry or 0 for _ in range(200)}
    assert RETRY_MILLISECONDS == (2000, 5000)
    assert len(delays) > 100
    assert 2000 <= min(delays) < 2200
    assert 4800 < max(delays) <= 5000


@pytest.mark.parametrize("dropped", [3, None])
def test_a_gap_says_why_and_how_many_or_that_nobody_knows(dropped: int | None) -> None:
    event = one(gap("history_expired", dropped, id="7-0"))
    assert (event.event, event.id) == ("gap", "7-0")
    assert event.json() == {"reason": "history_expired", "dropped": dropped}


def test_a_gap_without_a_place_leaves_the_client_the_id_it_has() -> None:
    assert b"id:" not in gap("unknown_id", None)


def test_a_gap_tells_how_to_get_what_is_missing_only_where_that_is_possible() -> None:
    assert one(gap("slow_client", 2, replay_after="5-0")).json()["replay_after"] == "5-0"
    assert "replay_after" not in one(gap("slow_client", 2)).json()


def test_a_heartbeat_has_the_time() -> None:
    event = one(heartbeat())
    assert event.event == "heartbeat"
    assert list(event.json()) == ["server_time"]


def test_last_words_spread_the_crowd_over_the_time_they_are_given() -> None:
    said = [one(farewell("draining", 10)) for _ in range(200)]
    delays = {event.retry or 0 for event in said}
    assert all(event.json()["retry_milliseconds"] == event.retry for event in said)
    assert 100 <= min(delays) < 1000
    assert 9000 < max(delays) <= 10_000


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_nobody_comes_back_at_once(seconds: float) -> None:
    """A browser takes `retry: 0` at its word."""
    assert one(farewell("draining", seconds)).retry == 100


def test_connected_names_what_the_stream_follows() -> None:
    data = one(connected(None, ["news", "orders/17"], "c0ffee", 30.0, position=None, replayed=0)).json()
    assert data["topics"] == ["news", "orders/17"]
    assert "user_id" not in data
    assert "topics" not in one(hello()).json()
