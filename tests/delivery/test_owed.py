"""What a client is to be told before anything newer."""

from __future__ import annotations

from tests.support.inside import PROCESS, events, new_history
from trio_sse.delivery.history import History
from trio_sse.delivery.owed import Owed


def said(owed: Owed, history: History) -> bytes:
    parts = owed.said(history, 99, {})
    assert [sequence for sequence, _, _ in parts] == sorted(sequence for sequence, _, _ in parts)
    return b"".join(frame for _, frame, _ in parts)


def test_the_gap_comes_first_and_then_the_latest_notice_of_each_kind() -> None:
    history = new_history()
    for _ in range(3):
        history.append(None, str.encode)
    owed = Owed()
    owed.notices["heartbeat"] = b"data: old\n\n"
    owed.notices["heartbeat"] = b"data: beat\n\n"
    owed.drop(2, after=1)
    owed.drop(3, after=1)
    gap, beat = events(said(owed, history))
    assert gap.id == f"{PROCESS}.3"
    assert gap.json() == {"reason": "slow_client", "dropped": 2, "replay_after": f"{PROCESS}.1"}
    assert beat.data == "beat"


def test_what_is_no_longer_kept_cannot_be_had_again() -> None:
    history = new_history(messages=1)
    for _ in range(3):
        history.append(None, str.encode)
    owed = Owed()
    owed.drop(3, after=1)
    (gap,) = events(said(owed, history))
    assert "replay_after" not in gap.json()


def test_nothing_owed_is_nothing_to_write() -> None:
    assert said(Owed(), new_history()) == b""


def test_what_was_said_is_not_said_again() -> None:
    owed = Owed()
    owed.drop(3, after=1)
    owed.notices["heartbeat"] = b"data: beat\n\n"
    owed.was_said()
    assert said(owed, new_history()) == b""


def test_of_a_slot_the_newest_is_kept_and_stands_behind_all_others() -> None:
    owed = Owed()
    one, other = (("ann",), "price"), (("ann",), "badge")
    assert [owed.keep(slot, (n, b"x", 1.0)) for n, slot in enumerate((one, other, one))] == [
        False,
        False,
        True,
    ]
    assert [sequence for sequence, _, _ in owed.latest.values()] == [1, 2]
