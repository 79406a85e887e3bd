"""What messages are for and streams follow: users and topics, as one kind of thing. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Target = str
"""A user by its id, or a topic: see `topic`."""

Followed = Target | tuple[Target, ...]
"""What a stream follows: one target, or several, sorted. Most follow one, which has no tuple around it."""

_TOPIC = "\0"  # no id has a control character, so a user and a topic of one name are two things

ALL: Target = _TOPIC + "*"
"""Everybody, where that must be a target too. No topic has this name."""


def topic(name: str) -> Target:
    """The target of a topic."""
    return _TOPIC + name


def topic_name(target: Target) -> str | None:
    """The name of a topic. None if the target is a user."""
    return target[1:] if target.startswith(_TOPIC) else None


def followed(user_id: str | None, topics: Iterable[str]) -> Followed:
    """What a stream of this user, if any, and of these topics follows: at least one."""
    targets = {topic(name) for name in topics}
    if user_id is not None:
        targets.add(user_id)
    return tuple(sorted(targets)) if len(targets) != 1 else targets.pop()


def each(follows: Followed) -> tuple[Target, ...]:
    """All targets that a stream follows."""
    return (follows,) if isinstance(follows, str) else follows


def user_of(follows: Followed) -> str | None:
    """The user that a stream is for, if any."""
    return next((target for target in each(follows) if topic_name(target) is None), None)


def topics_of(follows: Followed) -> list[str]:
    """The names of the topics that a stream follows."""
    return [name for target in each(follows) if (name := topic_name(target)) is not None]
