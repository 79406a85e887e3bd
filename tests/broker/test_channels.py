"""By key: which channel is whose, and which copies there are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sse.broker.channels import Channels, targets_of
from trio_sse.delivery.messages import COPY, decode, name_problem, topic_problem
from trio_sse.delivery.targets import ALL, topic

NAMES = st.text(min_size=1, max_size=128).filter(lambda name: not name_problem("it", name))


@pytest.mark.parametrize(
    ("target", "channel"),
    [
        ("42", "notes:user:42"),
        ("a:b{c}", "notes:user:a:b{c}"),
        ("all", "notes:user:all"),
        ("Zoë 李", "notes:user:Zoë 李"),
        (topic("orders/17"), "notes:topic:orders/17"),
        (topic("user:42"), "notes:topic:user:42"),
        (ALL, "notes:all"),
    ],
)
def test_a_target_has_one_channel_and_the_channel_that_target(target: str, channel: str) -> None:
    channels = Channels("notes")
    assert channels.of(target) == channel.encode()
    assert channels.target_of(channel.encode()) == target


@given(NAMES, st.booleans(), st.text(min_size=1).filter(str.isprintable))
def test_whatever_the_names_two_targets_have_two_channels(name: str, is_topic: bool, prefix: str) -> None:
    channels = Channels(prefix)
    target = topic(name) if is_topic and not topic_problem(name) else name
    assert channels.target_of(channels.of(target)) == target


@pytest.mark.parametrize(
    "channel", [b"notes", b"notes:", b"notes:all:1", b"other:user:1", b"notes:user:\xff", None, 5]
)
def test_what_is_no_channel_of_ours_is_nobody_s(channel: object) -> None:
    assert Channels("notes").target_of(channel) is None


def test_what_came_by_a_channel_is_for_its_target() -> None:
    assert targets_of("ann") == ("ann",)
    assert targets_of(topic("news")) == (topic("news"),)
    assert targets_of(ALL) is None


def copies_of(**message: object) -> dict[str, bytes]:
    payload = json.dumps(message).encode()
    found = list(Channels("notes").copies(decode(payload, 1000), payload))
    assert len(dict(found)) == len(found)
    return {channel.decode(): copy for channel, copy in found}


def test_a_message_for_one_is_published_as_it_is() -> None:
    message = b'{"user_id": 1, "n": 5}'
    assert copies_of(user_id=1, n=5) == {"notes:user:1": message}
    assert list(copies_of(topic="news", n=5)) == ["notes:topic:news"]
    assert list(copies_of(user_id="*", n=5)) == ["notes:all"]
    assert list(copies_of(user_id=["*", 1], topic="news")) == ["notes:all"]


def test_a_message_for_several_says_in_each_copy_that_they_are_one() -> None:
    found = copies_of(user_id=[1, "2", 1], topic="news", n=5)
    assert list(found) == ["notes:user:1", "notes:user:2", "notes:topic:news"]
    (payload,) = set(found.values())
    assert json.loads(payload)[COPY]
    notification = decode(payload, 1000, None, ("1",))
    assert notification.targets == ("1", "2", topic("news"))
    assert notification.copy
    assert COPY not in json.loads(notification.data)


def test_no_two_messages_are_copies_of_each_other() -> None:
    one, other = (copies_of(user_id=[1, 2], n=5) for _ in range(2))
    assert one.keys() == other.keys()
    assert one["notes:user:1"] != other["notes:user:1"]
