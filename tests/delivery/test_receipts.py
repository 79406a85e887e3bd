"""What became of messages that were published from here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import Client, batch, flush_now, joined, live, new_hub, note, unbegun
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.receipts import Receipt, Receipts, together


def way(receipt: Receipt) -> tuple[int, int, int]:
    return (receipt.took, receipt.buffered, receipt.dropped)


def test_a_message_is_recognised_by_its_bytes_and_only_once() -> None:
    receipts = Receipts()
    assert not receipts
    receipt = receipts.expect(b"{}")
    assert receipts
    assert receipts.claim(b"{ }") is None
    assert receipts.claim(b"{}") is receipt
    assert receipts.claim(b"{}") is None
    assert not receipts


def test_of_equal_messages_the_first_sent_comes_back_first() -> None:
    receipts = Receipts()
    first, second = receipts.expect(b"{}"), receipts.expect(b"{}")
    assert [receipts.claim(b"{}"), receipts.claim(b"{}")] == [first, second]


def test_one_that_is_awaited_no_longer_is_nobody_s() -> None:
    receipts = Receipts()
    first, second = receipts.expect(b"{}"), receipts.expect(b"{}")
    receipts.forget(b"{}", first)
    receipts.forget(b"{}", first)
    assert receipts.claim(b"{}") is second
    receipts.forget(b"{}", second)
    receipts.forget(b"other", second)
    assert not receipts


@given(st.lists(st.tuples(st.sampled_from(["expect", "claim", "forget"]), st.sampled_from([b"a", b"b"]))))
def test_whatever_is_expected_is_claimed_or_forgotten_and_nothing_stays(
    steps: list[tuple[str, bytes]],
) -> None:
    receipts = Receipts()
    expected: list[tuple[bytes, Receipt]] = []
    for step, payload in steps:
        own = [entry for entry in expected if entry[0] == payload]
        if step == "expect":
            expected.append((payload, receipts.expect(payload)))
        elif step == "claim":
            assert receipts.claim(payload) is (own[0][1] if own else None)
            expected = [entry for entry in expected if not own or entry is not own[0]]
        elif own:
            receipts.forget(*own[-1])
            expected = [entry for entry in expected if entry is not own[-1]]
    assert bool(receipts) is bool(expected)
    for entry in expected:
        receipts.forget(*entry)
    assert not receipts


def publish(hub: Hub, *users: str) -> Receipt:
    receipt = Receipt()
    hub.dispatch(note(*users), receipt=receipt)
    return receipt


def flushed(hub: Hub) -> None:
    flush_now(hub)
    hub.flushed()


def test_a_receipt_counts_the_connections_that_took_it() -> None:
    hub = new_hub()
    for user in ("ann", "ann", "bob"):
        Client(joined(hub, user))
    ann, both, everybody, nobody = (
        publish(hub, *users) for users in (["ann"], ["ann", "bob"], [], ["nobody"])
    )
    assert not ann.done.is_set()
    flushed(hub)
    assert [way(receipt) for receipt in (ann, both, everybody, nobody)] == [
        (2, 0, 0),
        (3, 0, 0),
        (3, 0, 0),
        (0, 0, 0),
    ]
    assert all(receipt.done.is_set() for receipt in (ann, both, everybody, nobody))
    assert [receipt.id for receipt in (ann, both)] == [hub.history.text(1), hub.history.text(2)]


def test_without_anybody_connected_it_is_done_with_the_next_flush() -> None:
    hub = new_hub()
    receipt = publish(hub)
    assert hub.pending.is_set(), "or nobody would flush"
    flushed(hub)
    assert (way(receipt), receipt.done.is_set()) == ((0, 0, 0), True)


def test_a_message_that_comes_while_a_flush_runs_is_done_with_the_next() -> None:
    hub = new_hub()
    Client(joined(hub))
    publish(hub)
    hub.take()
    late = publish(hub)
    hub.flushed()
    assert not late.done.is_set()
    flushed(hub)
    assert (way(late), late.done.is_set()) == ((1, 0, 0), True)


def test_a_busy_client_has_it_waiting_or_loses_it() -> None:
    hub = new_hub()
    client = Client(joined(hub, "ann", capacity=2), busy=False)
    client.busy = True
    together = [publish(hub, "ann") for _ in range(3)]
    flushed(hub)
    later = publish(hub, "ann")
    flushed(hub)
    assert [way(receipt) for receipt in (*together, later)] == [(0, 1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)]


def test_with_disconnect_the_one_that_did_not_fit_is_lost_here() -> None:
    hub = new_hub()
    client = Client(joined(hub, "ann", capacity=1, disconnect=True))
    client.busy = True
    first, second, third = (publish(hub, "ann") for _ in range(3))
    flushed(hub)
    assert client.closed
    assert [way(receipt) for receipt in (first, second, third)] == [(0, 1, 0), (0, 0, 1), (0, 0, 1)]


def test_who_is_catching_up_gets_it_with_the_rest() -> None:
    hub = new_hub()
    unbegun(hub, "ann")
    receipt = publish(hub, "ann")
    flushed(hub)
    assert way(receipt) == (0, 1, 0)


def test_who_has_left_counts_nowhere() -> None:
    hub = new_hub()
    connection = joined(hub, "ann")
    Client(connection)
    receipt = publish(hub, "ann")
    hub.leave(connection)
    flushed(hub)
    assert (way(receipt), receipt.done.is_set()) == ((0, 0, 0), True)


def test_messages_beside_it_that_nobody_asks_about_change_nothing() -> None:
    hub = new_hub()
    client = Client(joined(hub, "ann", capacity=2))
    client.busy = True
    hub.dispatch(note("ann"))
    receipt = publish(hub, "ann")
    hub.dispatch(note("ann"))
    hub.dispatch(note())
    flushed(hub)
    assert way(receipt) == (0, 1, 0)


@pytest.mark.parametrize("everybody_first", [True, False])
def test_what_is_for_one_and_what_is_for_all_leave_together_each_with_its_own(everybody_first: bool) -> None:
    hub = new_hub()
    Client(joined(hub, "ann"))
    Client(joined(hub, "bob"))
    users: list[list[str]] = [[], ["ann"]] if everybody_first else [["ann"], []]
    found = {len(names): publish(hub, *names) for names in users}
    flushed(hub)
    assert (way(found[0]), way(found[1])) == ((2, 0, 0), (1, 0, 0))


def test_a_batch_keeps_receipts_by_number() -> None:
    one, two = Receipt(), Receipt()
    growing = Batch([b"a"], [1], {1: one})
    growing.add(b"b", 2)
    growing.add(b"c", 3, two)
    assert growing.receipts == {1: one, 3: two}
    assert Batch.merged(growing, batch(4)).receipts == {1: one, 3: two}
    assert Batch.merged(batch(5), batch(4)).receipts is None


def test_one_who_has_the_older_part_already_is_counted_for_the_rest() -> None:
    connection = live()
    Client(connection)
    connection.since = 1
    older, newer = Receipt(), Receipt()
    connection.offer(Batch([b"a", b"b"], [1, 2], {1: older, 2: newer}))
    assert way(newer) == (1, 0, 0)


def test_a_message_that_asks_for_an_answer_has_one_receipt_and_is_answered_after_the_flush() -> None:
    hub = new_hub()
    answered: list[tuple[str | None, int, int, int]] = []

    def answer(receipt: Receipt) -> None:
        answered.append((receipt.reply_to, *way(receipt)))

    hub.receipts.answer = answer
    joined(hub, "ann")
    Client(joined(hub, "ann"), busy=True)
    own = Receipt()
    receipt = hub.receipts.asked("replies:1", own)
    assert receipt is own, "the one that POST /publish waits for"
    hub.dispatch(note("ann"), receipt=receipt)
    hub.dispatch(note("ann"), receipt=Receipt())
    other = hub.receipts.asked("replies:2", None)
    hub.dispatch(note("ann"), receipt=other)
    assert answered == []
    flush_now(hub)
    assert [name for name, *_ in answered] == ["replies:1", "replies:2"]
    assert all(sum(counts) == 2 for _, *counts in answered)


def test_where_nobody_answers_no_receipt_is_made() -> None:
    receipts = Receipts()
    assert receipts.asked("replies:1", None) is None
    own = Receipt()
    assert receipts.asked("replies:1", own) is own
    assert own.reply_to is None


def test_a_message_that_comes_back_from_several_places_has_a_receipt_for_each() -> None:
    receipts = Receipts()
    one, other = receipts.at("one"), receipts.at("other")
    assert receipts.at("one") is one
    first, second = one.expect(b"{}"), other.expect(b"{}")
    assert other.claim(b"{}") is second
    assert other.claim(b"{}") is None
    assert receipts.claim(b"{}") is None
    assert one.claim(b"{}") is first


def test_all_places_give_their_answers_to_one() -> None:
    receipts, told = Receipts(), list[Receipt]()
    before = receipts.at("before")
    assert before.asked("replies:1", None) is None
    receipts.answer = told.append
    for place in (before, receipts.at("after"), receipts):
        assert place.asked("replies:1", None) is not None
        assert place.answer == receipts.answer


def test_what_came_back_in_parts_is_counted_together_and_complete_with_the_last() -> None:
    one, other = Receipt("a", took=1, buffered=2), Receipt("b", took=3, dropped=4)
    one.done.set()
    assert not together([one, other]).done.is_set()
    other.done.set()
    assert way(together([one, other])) == (4, 2, 4)
    assert together([one, other]).done.is_set()
    assert together([one]) is one
