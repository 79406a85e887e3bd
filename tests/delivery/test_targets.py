"""Users and topics as one kind of thing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_sse.delivery.targets import each, followed, topic, topic_name, topics_of, user_of

NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(st.none() | NAMES, st.lists(NAMES, max_size=5))
def test_what_goes_in_comes_out(user_id: str | None, topics: list[str]) -> None:
    if user_id is None and not topics:
        topics = ["news"]
    follows = followed(user_id, topics)
    assert user_of(follows) == user_id
    assert topics_of(follows) == sorted(set(topics))
    assert len(each(follows)) == len(set(topics)) + (user_id is not None)
    assert follows == followed(user_id, reversed(topics)), "the order makes no difference"


def test_a_user_and_a_topic_of_one_name_are_two_things() -> None:
    assert topic("ann") != "ann"
    assert (topic_name("ann"), topic_name(topic("ann"))) == (None, "ann")
    assert len(each(followed("ann", ["ann"]))) == 2


def test_one_target_has_no_tuple_around_it() -> None:
    assert followed("ann", []) == "ann"
    assert followed(None, ["news"]) == topic("news")
