"""The counters. Plain integers, changed synchronously where the counted event happens."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the start of this process."""

    streams: int = 0
    """Streams opened."""
    received: int = 0
    """Messages accepted from Redis."""
    rejected: int = 0
    """Messages from Redis that could not be delivered to anybody: bad JSON, no user_id, too large."""
    dropped: int = 0
    """Messages a connection lost because its buffer was full. A `gap` reported each of them."""
    superseded: int = 0
    """Messages that waited for a slow client until a newer one of their key took their place."""
    expired: int = 0
    """Messages that a connection did not get because they had expired (`ttl`, `expires_at`)."""
    disconnected: int = 0
    """Streams ended because their buffer was full (SSE_SLOW_CLIENT=disconnect)."""
    resumed: int = 0
    """Streams opened with a Last-Event-ID."""
    overloaded: int = 0
    """Streams that ended at once because too many were open."""
    redis_reconnects: int = 0
    """Times the subscription was lost and made again."""
    presence_writes: int = 0
    """Users and topics, and users of topics, written to Redis because they came, went, or changed."""
    presence_online: int = 0
    """Users that SSE_PRESENCE_TOPIC was told of from here, as online."""
    presence_offline: int = 0
    """As offline."""
    replies: int = 0
    """Answers to `reply_to` that Redis has."""
    replies_dropped: int = 0
    """Answers that were lost: too many waited for Redis, or its list was full or no list."""
    connection_errors: int = 0
    """Connections that ended with an exception."""

    def snapshot(self) -> dict[str, int]:
        """The totals by their names in `/readyz`, where `received` is called `published`."""
        return {"published" if name == "received" else name: total for name, total in asdict(self).items()}
