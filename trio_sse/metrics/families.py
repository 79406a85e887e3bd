"""Every metric: its name, what it means, and how those of several workers make one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Literal, NamedTuple

from trio_sse.counters import DELAY_SECONDS, LAG_SECONDS

Kind = Literal["counter", "gauge", "histogram"]
Join = Callable[[float, float], float]


class Family(NamedTuple):
    """A metric, or several that a label tells apart."""

    name: str
    """Without the prefix, and without what Prometheus has behind counters."""
    kind: Kind
    meaning: str
    label: str = ""
    values: tuple[str, ...] = ()
    """Values of the label that are there from the start, so that the first one counts as an increase."""
    joined: Join = operator.add
    """How two gauges of different workers make one."""
    bounds: tuple[float, ...] = ()
    """Of a histogram."""


_FLUSHES = tuple(2.0**n - 1 for n in range(1, 21, 2))

GAPS = ("slow_client", "redis_reconnected", "history_expired", "unknown_id")

FAMILIES = (
    Family("workers", "gauge", "Workers that answer."),
    Family("streams", "gauge", "Streams that are open."),
    Family(
        "keys",
        "gauge",
        "Users and topics that streams follow. Followed at several workers, one counts several times.",
    ),
    Family("ready", "gauge", "1 if every worker is ready, as /readyz says.", joined=min),
    Family("redis_up", "gauge", "1 if every worker can get messages from Redis.", joined=min),
    Family(
        "log_lag_seconds",
        "gauge",
        "By how much what was read of SSE_REDIS_STREAM is behind it, in the slowest worker.",
        joined=max,
    ),
    Family("pending_bytes", "gauge", "Bytes of messages that were received and not offered to streams yet."),
    Family("open_files", "gauge", "Open files of the worker that has most.", joined=max),
    Family("max_open_files", "gauge", "How many files a worker may open.", joined=min),
    Family("streams_opened", "counter", "Streams that were opened."),
    Family("streams_resumed", "counter", "Those of them that came with a Last-Event-ID."),
    Family("slow_streams_ended", "counter", "Streams that ended because SSE_BUFFER was full."),
    Family(
        "refused",
        "counter",
        "Requests for a stream that got none.",
        "reason",
        ("bad_request", "unauthorized", "forbidden", "misdirected", "overloaded", "draining"),
    ),
    Family(
        "messages_received",
        "counter",
        "Messages from Redis. One of a shared channel, or of the log, counts once for all workers.",
        "source",
        ("channel", "log"),
    ),
    Family(
        "bad_messages",
        "counter",
        "Payloads from Redis that could not be delivered to anybody.",
        "reason",
        ("too_large", "too_deep", "not_json", "bad_target", "bad_field", "no_payload"),
    ),
    Family(
        "published_to_streams",
        "counter",
        "Messages, each counted once for every stream that it was for. "
        "Always what was delivered, declared or is owed.",
    ),
    Family(
        "delivered",
        "counter",
        "Those of them that were handed to the socket.",
        "way",
        ("direct", "buffered", "replayed"),
    ),
    Family(
        "declared",
        "counter",
        "Those of them that a stream did not get, and of which its client can know.",
        "reason",
        ("dropped", "superseded", "expired", "history_expired", "stream_ended"),
    ),
    Family(
        "owed", "gauge", "Those of them that wait: in a buffer, or in history for a stream that catches up."
    ),
    Family("gaps", "counter", "Gaps that streams were told.", "reason", GAPS),
    Family("sent_bytes", "counter", "Bytes of events that were handed to sockets."),
    Family("redis_reconnects", "counter", "Times that a subscription was lost and made again."),
    Family("connection_errors", "counter", "Connections that ended with an error of the service."),
    Family("presence_writes", "counter", "Records of who is here that were written to Redis."),
    Family(
        "presence_changes",
        "counter",
        "Users that SSE_PRESENCE_TOPIC was told of.",
        "state",
        ("online", "offline"),
    ),
    Family("replies", "counter", "Answers to reply_to.", "result", ("sent", "dropped")),
    Family(
        "traces",
        "counter",
        "Messages with a sampled traceparent, with SSE_TRACES_PER_SECOND: exported to the collector, left "
        "out for their number or by the sampler, or lost on the way.",
        "result",
        ("exported", "left_out", "lost"),
    ),
    Family(
        "flush_messages",
        "histogram",
        "Messages in one flush, counted once for every stream.",
        bounds=_FLUSHES,
    ),
    Family(
        "delivery_seconds",
        "histogram",
        "Seconds from publication until all sockets of the flush were offered a message: samples.",
        "since",
        ("log", "created_at", "receipt"),
        bounds=DELAY_SECONDS,
    ),
    Family("event_loop_lag_seconds", "histogram", "By how much the event loop was late.", bounds=LAG_SECONDS),
)
