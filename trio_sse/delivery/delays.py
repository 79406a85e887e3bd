"""How long messages take from their publisher to the sockets: samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from trio_sse.counters import DELAY_SECONDS, Histogram
from trio_sse.delivery.event_ids import FIRST_MILLISECOND, EntryId

SAMPLE_SECONDS = 0.01
"""Least time between two samples. Each costs as much as a message; a hundred in a second cost nothing."""

_CREATED_FROM = 1_000_000_000
"""A lower number in `created_at` is no time in seconds."""


class _Created(msgspec.Struct, gc=False):
    created_at: msgspec.Raw = msgspec.Raw(b"")


_created = msgspec.json.Decoder(_Created)
_time: msgspec.json.Decoder[float | datetime] = msgspec.json.Decoder(float | datetime)


class Sampled(NamedTuple):
    """A message on its way."""

    since: str
    """What says when it was published: its id in the `log`; its `created_at`; or nothing, so that it counts
    from its `receipt`."""
    at: float
    """That time, in seconds since 1970."""


class Delays:
    """Takes a message now and then, and looks how late it is when its flush has offered it to all."""

    def __init__(
        self, found: dict[str, Histogram], clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self.wanted = True
        """Whether the next message is to be a sample."""
        self.waiting: Sampled | None = None
        """It waits for its flush."""
        self.flying: Sampled | None = None
        """It is in the present flush."""
        self._found = found
        self._clock = clock
        self._wall = wall
        self.due = math.inf
        """When the next sample is wanted, on the clock."""

    def begin(self, payload: bytes | None, entry: EntryId | None) -> None:
        """This message is to leave with the next flush."""
        self.wanted = False
        self.due = math.inf
        self.waiting = _published(payload or b"{}", entry) or Sampled("receipt", self._wall())

    def take(self) -> None:
        """The flush of the message that waits has begun."""
        self.flying, self.waiting = self.waiting, None

    def end(self) -> None:
        """The present flush has offered all of it to all."""
        if self.flying is not None:
            since, at = self.flying
            self.flying = None
            self.due = self._clock() + SAMPLE_SECONDS
            if since not in self._found:
                self._found[since] = Histogram(DELAY_SECONDS)
            # Clocks differ: a message may seem to come from the future.
            self._found[since].observe(max(0.0, self._wall() - at))


def _published(payload: bytes, entry: EntryId | None) -> Sampled | None:
    """When a message was published, if anything says so."""
    if entry is not None and entry[0] >= FIRST_MILLISECOND:
        return Sampled("log", entry[0] / 1000)
    try:
        created = _time.decode(_created.decode(payload).created_at or b"null")
    except msgspec.DecodeError:
        return None
    if isinstance(created, datetime):
        return None if created.tzinfo is None else Sampled("created_at", created.timestamp())
    return Sampled("created_at", created) if _CREATED_FROM <= created < FIRST_MILLISECOND else None
