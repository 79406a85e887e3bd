"""What messages are for and clients follow: a user by its id, a topic by its name behind a mark. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

Keys = tuple[str, ...]

EVERYBODY = "*"
_TOPIC = "#"


def topic(name: str) -> str:
    """The key of a topic."""
    return _TOPIC + name


def users_of(keys: Keys) -> list[str]:
    """The users among these keys, or everybody."""
    return [key for key in keys if not key.startswith(_TOPIC)]


def topics_of(keys: Keys) -> list[str]:
    """The names of the topics among these keys."""
    return [key.removeprefix(_TOPIC) for key in keys if key.startswith(_TOPIC)]


def query(follows: Keys) -> str:
    """The query of a client that follows these."""
    users, topics = users_of(follows), topics_of(follows)
    return urlencode([*(("user_id", user) for user in users), *(("topic", name) for name in topics)])


def addressed(keys: Keys) -> dict[str, Any]:
    """The fields of a message for these. One user or topic stands there without a list."""
    fields = {"user_id": users_of(keys), "topic": topics_of(keys)}
    return {name: one if len(one) > 1 else one[0] for name, one in fields.items() if one}


def somebody(users: Sequence[str], topics: Sequence[str]) -> Keys:
    """Who a message is for: mostly a user or a topic, less often both, several of each, or everybody."""
    kind = random.random()
    if kind < 0.7:
        return (random.choice(users),)
    if kind < 0.85:
        return (random.choice(topics),)
    if kind < 0.95:
        return (random.choice(users), random.choice(topics))
    if kind < 0.998:
        return (*random.sample(users, 2), *random.sample(topics, 2))
    return (EVERYBODY,)
