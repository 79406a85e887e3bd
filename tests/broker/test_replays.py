"""What a walk through the log gathers for each pending replay."""

from __future__ import annotations

import weakref

from tests.support.inside import new_hub, note, unbegun
from trio_sse.broker.replays import BegunReplay, NewReplay, by_target, takers
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.replay import Rest
from trio_sse.delivery.resume import PendingReplay

REST = Rest((5, 0), (9, 0), 3, (0, 0), 2)


def pending(connection: Connection) -> PendingReplay:
    return PendingReplay(weakref.ref(connection), (5, 0), None)


def test_frames_are_kept_up_to_a_page_and_given_back_beyond() -> None:
    new = NewReplay(pending(unbegun(new_hub())), (9, 0), 3)
    frame = b"x" * (PAGE_BYTES // 2)
    assert [new.keep(frame, PAGE_BYTES) for _ in range(3)] == [len(frame), len(frame), -2 * len(frame)]
    assert (new.frames, new.paged) == ([], True)


def test_a_page_ends_before_what_is_missing() -> None:
    begun = BegunReplay(pending(unbegun(new_hub())), REST)
    begun.add((6, 0), b"six", 0)
    assert (begun.moved, begun.rest.after, begun.rest.pace) == (True, (6, 0), 1)
    assert not begun.accept(unbroken=False, broken_off=(0, 0))
    again = BegunReplay(begun.replay, begun.rest)
    assert again.accept(unbroken=False, broken_off=(0, 0))
    assert again.replay.gap == "history_expired"


def test_each_notification_has_the_replays_of_its_users_that_are_still_here() -> None:
    hub = new_hub()
    ann, bob, gone = (unbegun(hub, user) for user in ("ann", "bob", "ann"))
    replays = [NewReplay(pending(connection), (9, 0), 3) for connection in (ann, bob, gone)]
    hub.leave(gone)
    followers = by_target(replays)
    assert list(takers(note("ann", "nobody"), replays, followers)) == replays[:1]
    assert list(takers(note(), replays, followers)) == replays


def test_a_notification_that_reaches_a_replay_in_several_ways_is_for_it_once() -> None:
    hub = new_hub()
    both, news = unbegun(hub, "ann", topics=["news", "order"]), unbegun(hub, None, topics=["news"])
    replays = [NewReplay(pending(connection), (9, 0), 3) for connection in (both, news)]
    followers = by_target(replays)
    assert list(takers(note("ann", topics=["news", "order"]), replays, followers)) == replays
    assert list(takers(note(topics=["order"]), replays, followers)) == replays[:1]
