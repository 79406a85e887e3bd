"""Notices, the service's own events. Each has a name, and data, without which a browser dispatches none.
Pure."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from trio_sse.delivery import sse
from trio_sse.delivery.messages import Notification, utc_now

_encode = msgspec.json.Encoder().encode

GAP = b'{"trio_sse.gap":"redis_reconnected"}'
"""In Redis in place of a message, on the channel for all or in each partition: whoever passes messages on may
have lost some."""

RETRY_MILLISECONDS = (2000, 5000)
"""How long a browser waits before it connects again. Spread, so that many do not return at once."""


def service_event(name: str, data: object, id: str | None = None) -> bytes:  # noqa: A002
    return sse.event(_encode(data), name=name, id=id)


def connected(
    user_id: str | None,
    topics: list[str],
    connection_id: str,
    heartbeat_seconds: float,
    *,
    position: str | None,
    replayed: int,
) -> bytes:
    """The first notice of a stream. It names the user, if it is for one, and the topics, if it follows any.

    `position` is the id after which messages follow: a client that receives
    no more than this can resume from there. None if a `gap` comes next, which then has the id."""
    seconds = int(heartbeat_seconds) if heartbeat_seconds.is_integer() else heartbeat_seconds
    data: dict[str, Any] = {} if user_id is None else {"user_id": user_id}
    if topics:
        data["topics"] = topics
    data |= {
        "connection_id": connection_id,
        "server_time": utc_now(),
        "heartbeat_seconds": seconds,
        "replayed": replayed,
    }
    greeting = _encode(data)
    return sse.retry(_jittered(*RETRY_MILLISECONDS)) + (
        sse.event(greeting, name="connected")
        if position is None
        else sse.message(greeting, position, "connected")  # an id of the history's own is one line
    )


def snapshot(keys: int, position: str | None) -> bytes:
    """The snapshot is complete: it had so many messages. `position` is as in `connected`."""
    return service_event("snapshot", {"keys": keys}, id=position)


def gap(
    reason: str,
    dropped: int | None,
    *,
    id: str | None = None,  # noqa: A002
    replay_after: str | None = None,
) -> bytes:
    """Messages are missing here. `dropped` is how many, or None if that is not known.

    `id` is the position after the missing messages, so that they are declared once. `replay_after` is the
    Last-Event-ID that replays them, as long as they are kept.
    """
    data: dict[str, Any] = {"reason": reason, "dropped": dropped}
    if replay_after is not None:
        data["replay_after"] = replay_after
    return service_event("gap", data, id=id)


def gap_message() -> Notification:
    """What GAP is in a log: a message for everybody, so that those who come later find it in its place."""
    return Notification(None, "gap", _encode({"reason": "redis_reconnected", "dropped": None}))


def heartbeat() -> bytes:
    return service_event("heartbeat", {"server_time": utc_now()})


def farewell(name: str, spread_seconds: float, **more: str) -> bytes:
    """The last notice of a stream that the service ends. The client waits before it comes back, at random up
    to `spread_seconds`, so that many do not return at once."""
    milliseconds = _jittered(100, max(100, round(spread_seconds * 1000)))
    data = {"server_time": utc_now(), "retry_milliseconds": milliseconds, **more}
    return sse.retry(milliseconds) + service_event(name, data)


def _jittered(low: int, high: int) -> int:
    # random.randint takes three times as long.
    return low + int(random.random() * (high - low + 1))  # noqa: S311  jitter, not a secret
