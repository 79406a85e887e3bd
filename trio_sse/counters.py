"""The counters. Plain integers, changed synchronously where the counted event happens."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields

# What /readyz has had since 1.0, in this order. What came later is in /metrics alone.
_IN_READYZ = 16


DELAY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Histogram:
    """How often a value was not above each of these bounds, and above the one before."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The last one: of the values above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


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
    from_log: int = 0
    """How many of the received messages the log brought."""
    bytes_sent: int = 0
    """Bytes of events that were handed to sockets, or to an ASGI server, before any framing."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Gaps that streams were told, by reason."""
    bad: dict[str, int] = field(default_factory=dict)
    """The rejected messages, by reason."""
    traces: dict[str, int] = field(default_factory=dict)
    """Messages that asked to be traced, by what became of that: `exported`, `left_out` for their number, or
    `lost` on the way to the collector."""
    balance: Balance = field(default_factory=lambda: Balance())
    flushes: list[int] = field(default_factory=lambda: [0] * 64)
    """How many flushes offered less than 2**n messages, and not less than half of that, by n. Each message
    counts once for each stream that it was offered to. No Histogram: it is on the way of each message."""
    flushed: int = 0
    """How many they offered together."""
    delays: dict[str, Histogram] = field(default_factory=dict)
    """Seconds from when a message was published until it was offered to its last stream, by what says when it
    was published: samples."""
    loop_lag: Histogram = field(default_factory=lambda: Histogram(LAG_SECONDS))
    """By how much the event loop was late, each time that something looked."""

    def snapshot(self) -> dict[str, int]:
        """The totals by their names in `/readyz`, where `received` is called `published`."""
        names = [one.name for one in fields(self)][:_IN_READYZ]
        return {"published" if name == "received" else name: getattr(self, name) for name in names}


@dataclass(slots=True)
class Balance:
    """Each message counts once for each stream that it was for.

    `published == delivered + declared + owed` at every checkpoint. `published` is counted where messages are
    given out to streams, and when a stream is promised what it missed; the others where a connection decides
    what becomes of a message. So what is forgotten in between leaves a difference.
    """

    published: int = 0
    direct: int = 0
    """Its socket took it at once."""
    buffered: int = 0
    """It waited for the client, and was taken."""
    replayed: int = 0
    """The client came back for it, or began with it."""
    dropped: int = 0
    """No room. A `gap` says so, or is to."""
    superseded: int = 0
    """A newer one of its key took its place."""
    expired: int = 0
    """Its time was over before the client took it."""
    history_expired: int = 0
    """Memory no longer had it when a client that catches up came to it. A `gap` says so."""
    stream_ended: int = 0
    """The stream ended first. The client's last event id is one from before it."""
    owed: int = 0
    """It waits: for the client to take it, or in history for a stream that catches up. No total."""

    @property
    def delivered(self) -> int:
        return self.direct + self.buffered + self.replayed

    @property
    def declared(self) -> int:
        lost = self.dropped + self.history_expired + self.stream_ended
        return lost + self.superseded + self.expired

    @property
    def undeclared(self) -> int:
        """What is neither delivered nor declared nor owed: 0, or a mistake of the service."""
        return self.published - self.delivered - self.declared - self.owed


def add_to(counts: dict[str, int], name: str, more: int = 1) -> None:
    """Count one more, or several, of a kind."""
    counts[name] = counts.get(name, 0) + more
