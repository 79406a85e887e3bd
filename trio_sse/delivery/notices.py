"""What the service says itself: always a named event with data, since a browser dispatches no other. Pure."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from trio_sse.delivery import sse
from trio_sse.delivery.messages import utc_now

RETRY_MILLISECONDS = (2000, 5000)
"""How long a browser waits before it connects again: spread, so that a crowd does not return as one."""


def service_event(name: str, data: dict[str, Any], id: str | None = None) -> bytes:  # noqa: A002
    return sse.event(msgspec.json.encode(data), name=name, id=id)


def connected(
    user_id: str, connection_id: str, heartbeat_seconds: float, *, position: str | None, replayed: int
) -> bytes:
    """The confirmation. `position` is the id after which messages follow: whoever receives no more than
    this can still resume from there. None where a `gap` comes next, which then has it."""
    seconds = int(heartbeat_seconds) if heartbeat_seconds.is_integer() else heartbeat_seconds
    data = {
        "user_id": user_id,
        "connection_id": connection_id,
        "server_time": utc_now(),
        "heartbeat_seconds": seconds,
        "replayed": replayed,
    }
    return sse.retry(_jittered(*RETRY_MILLISECONDS)) + service_event("connected", data, id=position)


def gap(
    reason: str,
    dropped: int | None,
    *,
    id: str | None = None,  # noqa: A002
    replay_after: str | None = None,
) -> bytes:
    """Messages are missing here: how many, or None where it cannot be known.

    `id` stands for the place behind what is missing, so that it is declared once. `replay_after` is the
    Last-Event-ID with which the missing messages can be had for as long as they are kept.
    """
    data: dict[str, Any] = {"reason": reason, "dropped": dropped}
    if replay_after is not None:
        data["replay_after"] = replay_after
    return service_event("gap", data, id=id)


def heartbeat() -> bytes:
    return service_event("heartbeat", {"server_time": utc_now()})


def farewell(name: str, spread_seconds: float, **more: str) -> bytes:
    """The last words of a stream that ends by the service's wish: come back after a while, spread at random
    over `spread_seconds`, so that a crowd does not return as one."""
    milliseconds = _jittered(100, max(100, round(spread_seconds * 1000)))
    data = {"server_time": utc_now(), "retry_milliseconds": milliseconds, **more}
    return sse.retry(milliseconds) + service_event(name, data)


def _jittered(low: int, high: int) -> int:
    return random.randint(low, high)  # noqa: S311  jitter, not a secret
