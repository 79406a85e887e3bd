"""What one worker reports: plain numbers under short names, such as `delivered:direct`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from trio_sse.counters import Counters, Histogram

Totals = dict[str, float]


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What one worker counts, and what it has heard of others."""

    worker: str
    """A name that no other has, now or later."""
    totals: Totals
    """What only grows, and what streams are owed, which belongs to the same moment."""
    gauges: Totals
    """How things are now."""
    others: dict[str, Totals] = {}
    """The totals of other workers, as they said last."""


def totals_of(counters: Counters, refused: Mapping[str, int]) -> Totals:
    """The totals of one worker. `refused` counts requests for streams by the reason of the refusal."""
    balance = counters.balance
    found: Totals = {
        "streams_opened": counters.streams,
        "streams_resumed": counters.resumed,
        "slow_streams_ended": counters.disconnected,
        "messages_received:channel": counters.received - counters.from_log,
        "messages_received:log": counters.from_log,
        "published_to_streams": balance.published,
        "delivered:direct": balance.direct,
        "delivered:buffered": balance.buffered,
        "delivered:replayed": balance.replayed,
        "declared:dropped": balance.dropped,
        "declared:superseded": balance.superseded,
        "declared:expired": balance.expired,
        "declared:history_expired": balance.history_expired,
        "declared:stream_ended": balance.stream_ended,
        "owed": balance.owed,
        "sent_bytes": counters.bytes_sent,
        "redis_reconnects": counters.redis_reconnects,
        "connection_errors": counters.connection_errors,
        "presence_writes": counters.presence_writes,
        "presence_changes:online": counters.presence_online,
        "presence_changes:offline": counters.presence_offline,
        "replies:sent": counters.replies,
        "replies:dropped": counters.replies_dropped,
        "flush_messages/sum": counters.flushed,
    }
    for family, counts in (
        ("gaps", counters.gaps),
        ("bad_messages", counters.bad),
        ("refused", refused),
        ("traces", counters.traces),
    ):
        found.update((f"{family}:{name}", count) for name, count in counts.items())
    found.update((f"flush_messages/{2**n - 1}", count) for n, count in enumerate(counters.flushes) if count)
    found.update(_cells("event_loop_lag_seconds", counters.loop_lag))
    for since, delays in counters.delays.items():
        found.update(_cells(f"delivery_seconds:{since}", delays))
    return found


def _cells(name: str, histogram: Histogram) -> Iterator[tuple[str, float]]:
    yield f"{name}/sum", histogram.sum
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        yield f"{name}/{bound:g}", count
