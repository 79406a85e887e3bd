"""Messages that are traced, from their arrival to the last of their streams. Bounded. Synchronous, no I/O."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import trio

from trio_sse.counters import Counters, add_to
from trio_sse.delivery.partitions import Partition

MOST_HELD = 100_000
"""Messages that are followed until slow clients have taken them, each counted once for each of these. Each is
remembered with its stream, in about 200 bytes."""
MOST_FINISHED = 2048
"""Traces that wait to be exported."""

# W3C Trace Context, 3.2: version, trace id, id of the parent, flags; later versions may have more behind.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])(-.{0,400})?"
)
_SAMPLED = "13579bdf"

# 3.3: up to 32 pairs. The SDK of OpenTelemetry would write what is none of these to the log.
MAX_TRACESTATE = 512
_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_PAIR = rf"[ \t]*+(?:{_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~][ \t]*+)?"
_TRACESTATE = re.compile(rf"{_PAIR}(?:,{_PAIR}){{0,31}}")


class Context(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Whose doing a message is: fields of the message, by W3C Trace Context."""

    traceparent: str
    tracestate: str = ""

    @classmethod
    def of(cls, traceparent: str, tracestate: str = "") -> Context:
        """As somebody else wrote them. A `tracestate` that is none is left out (3.3.1.4)."""
        fit = len(tracestate) <= MAX_TRACESTATE and _TRACESTATE.fullmatch(tracestate)
        return cls(traceparent, tracestate if fit else "")

    @property
    def sampled(self) -> bool:
        """Whether it is valid, and whoever began the trace keeps it."""
        found = _TRACEPARENT.fullmatch(self.traceparent)
        return found is not None and found[2] in _SAMPLED and not (found[1] == "00" and found[3])


class _Raw(msgspec.Struct, gc=False):
    traceparent: msgspec.Raw = msgspec.Raw(b"")
    tracestate: msgspec.Raw = msgspec.Raw(b"")


_raw = msgspec.json.Decoder(_Raw)
_text = msgspec.json.Decoder(str)


def context_of(payload: bytes) -> Context | None:
    """What a message says. None: nothing that could be used."""
    if b'"traceparent"' not in payload:
        return None
    try:
        raw = _raw.decode(payload)
        state = _text.decode(raw.tracestate) if raw.tracestate else ""
        return Context.of(_text.decode(raw.traceparent), state)
    except (msgspec.DecodeError, RecursionError):  # the fields are the publisher's own
        return None


def with_context(payload: bytes, context: Context, max_bytes: int) -> bytes:
    """A JSON object that says so, unless it says something itself, or would have more than `max_bytes`."""
    try:
        if _raw.decode(payload).traceparent:
            return payload
    except (msgspec.DecodeError, RecursionError):
        return payload
    fields = msgspec.json.encode(context)
    longer = b"%b,%b" % (payload[: payload.rindex(b"}")], fields[1:])
    return longer if len(longer) <= max_bytes else payload


class Offers(Protocol):
    """What became of a message when it was offered to all. A Receipt is one."""

    id: str | None
    took: int
    buffered: int
    dropped: int


@dataclass(slots=True, eq=False)
class Trace:
    """A message on its way. Times are in nanoseconds since 1970."""

    context: Context
    size: int
    """Bytes of its payload."""
    began: int
    _traces: Traces
    from_log: bool = False
    partition: Partition | None = None
    id: str | None = None
    """Its event id."""
    offered: int = 0
    """When all streams had been offered it; 0: not yet. Those that take messages at once had it by then."""
    ended: int = 0
    """When the last stream had taken it, or was not to get it any more; 0: not yet."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Streams by what became of it for them: `taken` at once, `waited`, `replayed`, or not got: `dropped`,
    `superseded`, `expired`, `missing`, `before`, `snapshot`, `unsent`. See `outcomes.Outcome`."""
    waiting: int = 0
    """For how many streams more it waits that are not followed: there were too many."""
    _held: int = 0

    @property
    def streams(self) -> int:
        """How many it was for."""
        return sum(self.outcomes.values()) + self._held + self.waiting

    def held(self) -> bool:
        """A stream is to get it later. Returns whether the stream is to tell what becomes of it."""
        followed = self._traces.held < MOST_HELD
        self._held += followed
        self._traces.held += followed
        self.waiting += not followed
        return followed

    def over(self, outcome: str) -> None:
        """A stream that held it tells what became of it."""
        self._held -= 1
        self._traces.held -= 1
        add_to(self.outcomes, outcome)
        self._end_if_over()

    def was_offered(self, offers: Offers) -> None:
        """All streams have been offered it."""
        self.id = offers.id
        for outcome, streams in (("taken", offers.took), ("dropped", offers.dropped)):
            if streams:
                add_to(self.outcomes, outcome, streams)
        self.offered = max(time.time_ns(), self.began)  # the clock may be set back meanwhile
        if self.streams:
            self._end_if_over()
        else:  # all have left, or get it from another partition
            self._traces.was_for_nobody()

    def _end_if_over(self) -> None:
        if self.offered and not self._held:
            self.ended = max(time.time_ns(), self.offered)
            self._traces.ended(self)


class Traces:
    """Those of one process: at most `per_second`."""

    def __init__(
        self, per_second: int, counters: Counters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.finished: deque[Trace] = deque()
        self.some = trio.Event()
        """Set while there are some that have ended."""
        self._counts = counters.traces
        self._most = per_second
        self._clock = clock
        self._left = float(per_second)  # a token bucket of one second
        self._looked = clock()
        self.held = 0
        """How often a stream holds a message. Only a Trace changes it."""

    def begin(self, payload: bytes, *, from_log: bool, partition: Partition | None) -> Trace | None:
        """Trace this message, which has come, if it asks for that. See `have_room`."""
        context = context_of(payload)
        if context is None or not context.sampled:
            return None
        return Trace(context, len(payload), time.time_ns(), self, from_log, partition)

    def have_room(self) -> bool:
        """Whether one more may be traced, which somebody here is to get. Else it is left out, and counted."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._looked) * self._most)
        self._looked = now
        if self._left < 1:
            add_to(self._counts, "left_out")
            return False
        self._left -= 1
        return True

    def was_for_nobody(self) -> None:
        """A trace was begun of a message that nobody gets here. Another one may be begun in its place."""
        self._left += 1

    def ended(self, trace: Trace) -> None:
        """What there is to know of it is known."""
        if len(self.finished) >= MOST_FINISHED:
            add_to(self._counts, "lost")
            return
        self.finished.append(trace)
        self.some.set()

    def take(self, most: int) -> list[Trace]:
        """The oldest of those that have ended."""
        taken = [self.finished.popleft() for _ in range(min(most, len(self.finished)))]
        if not self.finished:
            self.some = trio.Event()
        return taken
