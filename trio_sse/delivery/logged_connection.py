"""A connection that is a line in the log when it ends (SSE_LOG_STREAMS)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from trio_sse.delivery.batch import NEWEST, Batch
from trio_sse.delivery.braid import Braid
from trio_sse.delivery.connection import Common, Connection
from trio_sse.delivery.messages import RESERVED_EVENTS
from trio_sse.delivery.outlet import Outlet
from trio_sse.delivery.targets import Followed, topics_of, user_of

log = structlog.stdlib.get_logger("trio_sse.streams")

_OWN = re.compile(rb"^event: (?:%b)\n" % "|".join(sorted(RESERVED_EVENTS)).encode(), re.MULTILINE)
_COMMENT = re.compile(rb"^:\n\n", re.MULTILINE)
_DROPPED = re.compile(rb'^event: gap\ndata: {"reason":"slow_client","dropped":(\d+)', re.MULTILINE)

MOST_TOPICS = 20
"""Topics that a line names."""


@dataclass(slots=True)
class Counted:
    """What the line has."""

    address: str
    began: float
    """In Trio's time."""
    messages: int = 0
    """Messages that an outlet took."""
    dropped: int = 0
    """Those that a gap has told of."""
    why: str | None = None
    said: bool = False


class Logged(Connection):
    """What such a connection has beside another one: it counts what leaves. Others spare the memory and the
    time."""

    __slots__ = ()

    counted: Counted

    def attach(self, outlet: Outlet) -> None:
        super().attach(_Counting(outlet, self.counted))

    def take_waiting(self) -> bytes:
        data = super().take_waiting()
        if data:
            self.counted.messages += messages_in(data)
            self.counted.dropped += sum(map(int, _DROPPED.findall(data)))
        return data

    def ends(self, why: str) -> None:
        super().ends(why)
        if self.counted.why is None:
            self.counted.why = why

    def say(self) -> None:
        """Write the line, once."""
        counted = self.counted
        if counted.said:
            return
        counted.said = True
        topics = topics_of(self.follows)
        who: dict[str, object] = {"user": user_of(self.follows), "address": counted.address}
        if topics:
            who["topics"] = topics[:MOST_TOPICS]
        log.info(
            "stream ended",
            **who,
            seconds=round(trio.current_time() - counted.began, 3),
            messages=counted.messages,
            dropped=counted.dropped + self.untold,
            why=counted.why or "left",
        )


class LoggedConnection(Logged):
    """A connection that is logged."""

    __slots__ = ("counted",)

    def __init__(self, follows: Followed, common: Common, address: str) -> None:
        super().__init__(follows, common)
        self.counted = Counted(address, trio.current_time())


class LoggedBraid(Logged, Braid):
    """A stream from several partitions that is logged."""

    __slots__ = ("counted",)

    def __init__(
        self, follows: Followed, common: Common, leave: Callable[[Braid], None], address: str
    ) -> None:
        Braid.__init__(self, follows, common, leave)
        self.counted = Counted(address, trio.current_time())


class _Counting:
    """An outlet, and the count of what it takes at once."""

    __slots__ = ("_counted", "_outlet")

    def __init__(self, outlet: Outlet, counted: Counted) -> None:
        self._outlet = outlet
        self._counted = counted

    @property
    def behind(self) -> int | None:
        """Bytes that the client has not acknowledged, where the outlet knows."""
        behind: int | None = getattr(self._outlet, "behind", None)
        return behind

    def take(self, batch: Batch) -> bool:
        taken = self._outlet.take(batch)
        if taken and batch.last != NEWEST:
            marks = batch.marks or {}
            notices = sum(mark.notice is not None for mark in marks.values())
            self._counted.messages += len(batch.sequences) - notices
        return taken

    def pull(self) -> None:
        self._outlet.pull()

    def close(self) -> None:
        self._outlet.close()


def messages_in(data: bytes) -> int:
    """How many messages there are in whole frames: those that are no event of the service itself."""
    return data.count(b"\n\n") - len(_COMMENT.findall(data)) - len(_OWN.findall(data))
