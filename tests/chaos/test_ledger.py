"""The judge judged: what it must find, and what it must let pass."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.keys import EVERYBODY, Keys, addressed, query, topic
from tests.chaos.ledger import CLOCKS, Count, Gap, Ledger, Message, Seen, Sight

UNKNOWN = Gap("redis_reconnected")
NEWS, ORDERS = topic("news"), topic("orders")


def published(*messages: Message) -> Ledger:
    """Messages 1, 2, 3 …, by the stream."""
    ledger = Ledger()
    for message in messages:
        ledger.accept(ledger.attempt(message), "stream")
    return ledger


def numbered(number: int) -> Ledger:
    """Messages 1 to `number` for user a, by the stream."""
    return published(*[Message(("a",))] * number)


def count(ledger: Ledger, *sights: int | Gap, follows: Keys = ("a",)) -> Count:
    return ledger.count(follows, [Seen(sight) if isinstance(sight, int) else sight for sight in sights])


@pytest.mark.parametrize(
    ("sights", "fault"),
    [
        ((1, 3), "lost"),
        ((2, 3), "lost"),
        ((1, 2), "lost"),
        ((UNKNOWN, 1, 3), "lost"),  # a gap stands for what is missing in its place, and nowhere else
        ((1, 2, 3, 2), "duplicated"),
        ((1, 1, 2, 3), "duplicated"),
        ((1, 3, 2), "disordered"),
        ((1, UNKNOWN, 3, 2), "disordered"),
        ((1, Gap("slow_client", 2), 3), "miscounted"),
        ((1, 2, Gap("slow_client", 1), 3), "miscounted"),
        ((1, 2, 3, 4), "foreign"),
    ],
)
def test_what_is_wrong_is_found(sights: tuple[int | Gap, ...], fault: str) -> None:
    found = count(numbered(3), *sights)
    assert getattr(found, fault) == 1
    assert not found.exact


@pytest.mark.parametrize(
    ("sights", "covered"),
    [
        ((1, 2, 3), 0),
        ((1, UNKNOWN, 2, 3), 0),
        ((1, UNKNOWN, 3), 1),
        ((1, UNKNOWN), 2),
        ((UNKNOWN, 3), 2),
        ((1, Gap("slow_client", 1), 3), 1),
        ((Gap("slow_client", 1), Gap("slow_client", 1), 3), 2),
        ((Gap("slow_client", 1), UNKNOWN, 3), 2),
    ],
)
def test_what_a_gap_stands_for_is_covered(sights: tuple[int | Gap, ...], covered: int) -> None:
    found = count(numbered(3), *sights)
    assert found.exact
    assert found.covered == covered
    assert found.gaps == sum(isinstance(sight, Gap) for sight in sights)


def test_an_attempt_that_nobody_knows_of_may_be_seen_once_or_not() -> None:
    ledger = numbered(1)
    unsure = ledger.attempt(Message(("a",)))
    assert count(ledger, 1).exact
    assert count(ledger, 1, unsure).exact
    assert count(ledger, 1, unsure, unsure).duplicated == 1
    assert count(ledger, 1, Gap("slow_client", 1)).exact


def test_an_attempt_for_somebody_else_must_not_be_seen() -> None:
    ledger = numbered(1)
    assert count(ledger, 1, ledger.attempt(Message(("b",)))).foreign == 1
    other = ledger.attempt(Message(("b",)))
    ledger.accept(other, "stream")
    assert count(ledger, 1, other).foreign == 1


def test_the_ways_into_the_service_have_an_order_each() -> None:
    ledger = Ledger()
    channel, stream, later = (ledger.attempt(Message((EVERYBODY,))) for _ in range(3))
    ledger.accept(channel, "channel")
    ledger.accept(stream, "stream")
    ledger.accept(later, "stream")
    assert count(ledger, stream, channel, later).exact
    assert count(ledger, stream, later, channel).exact
    assert count(ledger, later, channel, stream).disordered == 1
    assert count(ledger, UNKNOWN, later).covered == 2


FOR_SEVERAL = [("a",), (NEWS,), ("a", NEWS), ("b", NEWS, ORDERS), (ORDERS,), ("b",), ("a", "b"), (EVERYBODY,)]


@pytest.mark.parametrize(
    ("follows", "sights"),
    [
        (("a",), (1, 3, 7, 8)),
        ((NEWS,), (2, 3, 4, 8)),
        (("a", NEWS), (1, 2, 3, 4, 7, 8)),
        (("a", NEWS, ORDERS), (1, 2, 3, 4, 5, 7, 8)),
        (("b", ORDERS), (4, 5, 6, 7, 8)),
        (("news",), (8,)),  # a user and a topic of one name are two things
    ],
)
def test_what_several_keys_reach_is_expected_once_and_in_order(
    follows: Keys, sights: tuple[int, ...]
) -> None:
    ledger = published(*map(Message, FOR_SEVERAL))
    assert count(ledger, *sights, follows=follows).exact
    assert count(ledger, *sights, sights[-1], follows=follows).duplicated == 1
    assert count(ledger, *sights[:-1], follows=follows).lost == 1
    for other in {*range(1, 9)} - {*sights}:
        assert count(ledger, *sights, other, follows=follows).foreign == 1


def test_an_attempt_for_several_keys_may_be_seen_by_who_follows_one() -> None:
    ledger = Ledger()
    unsure = ledger.attempt(Message(("b", NEWS)))
    assert count(ledger, unsure, follows=("a", NEWS)).exact
    assert count(ledger, unsure, unsure, follows=("a", NEWS)).duplicated == 1
    assert count(ledger, unsure, follows=("a", ORDERS)).foreign == 1


def test_keys_are_named_in_queries_and_messages() -> None:
    assert query(("a", NEWS, ORDERS)) == "user_id=a&topic=news&topic=orders"
    assert query((NEWS,)) == "topic=news"
    assert addressed(("a", NEWS)) == {"user_id": "a", "topic": "news"}
    assert addressed((EVERYBODY,)) == {"user_id": "*"}
    assert addressed(("a", "b", NEWS, ORDERS)) == {"user_id": ["a", "b"], "topic": ["news", "orders"]}


def states(*sent: float) -> Ledger:
    """Messages 1, 2 … of one state, sent at these times, and an event."""
    return published(*(Message(("a",), state="s", sent=at) for at in sent), Message(("a",)))


@pytest.mark.parametrize(
    ("seen", "superseded"),
    [
        ([(1, 1), (2, 2), (3, 3), (4, 4)], 0),
        ([(3, 3), (4, 4)], 2),
        ([(1, 1), (3, 5), (4, 5)], 1),
    ],
)
def test_only_the_newest_of_a_state_counts(seen: list[tuple[int, int]], superseded: int) -> None:
    found = states(1, 2, 3).count(("a",), [Seen(serial, at=at + 0.5) for serial, at in seen])
    assert found.exact
    assert found.superseded == superseded


@pytest.mark.parametrize(
    "seen",
    [
        [(1, 1), (4, 4)],  # the newest is missing
        [(1, 1), (2, 2), (4, 4)],
        [(2, 0), (3, 3), (4, 4)],  # the newer one had not been sent
    ],
)
def test_a_state_without_its_newest_is_lost(seen: list[tuple[int, int]]) -> None:
    assert states(1, 2, 3).count(("a",), [Seen(serial, at=at + 0.5) for serial, at in seen]).lost == 1


def test_a_state_for_other_keys_is_another_one() -> None:
    ledger = published(
        Message(("a",), state="s"), Message(("a", NEWS), state="s"), Message(("a",), state="t")
    )
    assert count(ledger, 2, 3).lost == 1


def test_what_has_expired_may_be_missing_and_nothing_else() -> None:
    ledger = published(Message(("a",), expires=5), Message(("a",)))
    late, early = Seen(2, at=5.1), Seen(2, at=5 - 2 * CLOCKS)
    assert ledger.count(("a",), [late]).expired == 1
    assert ledger.count(("a",), [late]).exact
    assert ledger.count(("a",), [early]).lost == 1
    assert ledger.count(("a",), [Seen(1), late]).live == 2


def test_a_gap_may_have_counted_what_has_expired() -> None:
    ledger = published(Message(("a",)), Message(("a",), expires=5), Message(("a",)))
    for said, exact in ((0, True), (1, True), (2, True), (3, False)):
        assert count(ledger, Gap("slow_client", said), 3).exact == exact


def test_replayed_and_live_are_told_apart() -> None:
    sights: list[Sight] = [Seen(1), Seen(2, replayed=True), Seen(3)]
    found = numbered(3).count(("a",), sights)
    assert (found.live, found.replayed) == (2, 1)


@given(st.lists(st.integers(1, 6) | st.just(UNKNOWN), max_size=12))
def test_what_is_exact_adds_up_and_says_nothing_twice(sights: list[int | Gap]) -> None:
    found = count(numbered(6), *sights)
    seen = [sight for sight in sights if isinstance(sight, int)]
    assert found.published == 6
    assert found.exact == (not found.faults)
    assert found.duplicated == len(seen) - len(set(seen))
    if found.exact:
        assert seen == sorted(set(seen))
        assert found.live + found.covered == 6
    total = Count()
    total.add(found)
    assert dataclasses.asdict(total) == dataclasses.asdict(found)


def by_key() -> tuple[Ledger, list[int]]:
    """Messages 1 and 2 for ann, 3 for a topic, 4 for both, each sent at the second of its number."""
    ledger = Ledger(by_key=True)
    serials: list[int] = []
    for keys in (("ann",), ("ann",), ("#news",), ("ann", "#news")):
        serial = ledger.attempt(Message(keys, sent=len(serials) + 1))
        ledger.accept(serial, "channel")
        serials.append(serial)
    return ledger, serials


BOTH = ("ann", "#news")


def test_by_key_each_key_has_an_order_of_its_own_and_what_is_for_several_has_none() -> None:
    ledger, (one, two, three, four) = by_key()
    count = ledger.count(BOTH, [Seen(four), Seen(three), Seen(one), Seen(two)])
    assert count.exact
    assert ledger.count(BOTH, [Seen(two), Seen(one), Seen(three), Seen(four)]).disordered == 1
    assert not ledger.count(BOTH, [Seen(one), Seen(two), Seen(three)]).exact


def test_by_key_a_gap_stands_for_what_was_sent_before_it() -> None:
    ledger, (one, two, three, _) = by_key()
    seen = [Seen(one), Seen(two), Seen(three)]
    assert ledger.count(BOTH, [*seen, Gap("redis_reconnected", at=5)]).covered == 1
    assert ledger.count(BOTH, [*seen, Gap("redis_reconnected", at=3)]).lost == 1
    assert ledger.count(BOTH, [*seen, Seen(4), Seen(4)]).duplicated == 1


def test_what_is_in_doubt_may_be_seen_anywhere_or_not_but_not_twice() -> None:
    ledger, (one, two, three, four) = by_key()
    ledger.doubt(one, "channel")
    ledger.doubt(four, "channel")
    for sights in ([two, one, three, four], [three, two]):
        count = ledger.count(BOTH, map(Seen, sights))
        assert count.exact
        assert count.published == 2
    assert ledger.count(BOTH, map(Seen, [one, two, three, one])).duplicated == 1
    refused = ledger.attempt(Message(("ann",)))
    ledger.doubt(refused, "channel")  # it is void already
    assert ledger.count(BOTH, map(Seen, [two, three, refused])).exact


@pytest.mark.parametrize(("late", "lost"), [(0.0, 1), (0.5, 1), (2.0, 0)])
def test_a_gap_may_come_behind_a_newer_message_by_so_much(late: float, lost: int) -> None:
    ledger, (one, two, three, four) = by_key()
    ledger.late_gaps = late
    sights: list[Seen | Gap] = [
        Seen(two, at=5),
        Gap("redis_reconnected", at=6),
        Seen(three, at=7),
        Seen(four, at=7),
    ]
    count = ledger.count(BOTH, sights)
    assert (count.lost, count.covered) == (lost, 1 - lost)
    assert one not in [two, three, four]
    assert ledger.count(BOTH, sights[:1]).lost == 3
