"""What one partition of a log needs: a hub, a history and a way to resume, for those that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from trio_sse.counters import Counters
from trio_sse.delivery import messages
from trio_sse.delivery.braid import Braid
from trio_sse.delivery.connection import Common
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.messages import AS_IT_SAYS, MessageError, Notification, Targets
from trio_sse.delivery.notices import GAP, gap_message
from trio_sse.delivery.partitions import Partition, Partitioning
from trio_sse.delivery.receipts import Receipts
from trio_sse.delivery.resume import Greet, Resumer
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.targets import ALL


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all lanes keep in all. Each has its share."""

    messages: int
    seconds: float
    max_bytes: int
    snapshot_keys: int
    snapshot_bytes: int
    heartbeat_seconds: float

    def share(self, of: int) -> Bounds:
        """The share of one of so many lanes."""
        of = max(1, of)
        return replace(
            self,
            messages=-(-self.messages // of),
            max_bytes=-(-self.max_bytes // of),
            snapshot_keys=-(-self.snapshot_keys // of),
            snapshot_bytes=-(-self.snapshot_bytes // of),
        )


class Lane:
    """One partition, in this process."""

    def __init__(
        self,
        partition: Partition,
        partitioning: Partitioning,
        *,
        bounds: Bounds,
        counters: Counters,
        receipts: Receipts,
        common: Common,
        clock: Callable[[], float],
        greet: Greet,
    ) -> None:
        """`common` is that of the streams. `greet` is told how each strand begins."""
        self.partition = partition
        self.key = partitioning.key(partition)
        """The key in Redis."""
        self.tried = False
        """Whether reading it was tried once, whatever the outcome."""
        self.waiting: dict[Braid, None] = {}
        """Streams that begin when it was."""
        self.followers = 0
        """How many streams follow it, those that wait counted."""
        self.idle_since = 0.0
        """On the clock: since when it has none, if it has none."""
        self._partitioning = partitioning
        self.history = History(
            "",
            messages=bounds.messages,
            seconds=bounds.seconds,
            max_bytes=bounds.max_bytes,
            clock=clock,
            has_log=True,
            partition=partition,
        )
        snapshot = Snapshot(bounds.snapshot_keys, bounds.snapshot_bytes)
        self.hub = Hub(
            counters,
            self.history,
            heartbeat_seconds=bounds.heartbeat_seconds,
            snapshot=snapshot,
            receipts=receipts,
            clock=clock,
        )
        self.resumer = Resumer(
            self.history, heartbeat_seconds=bounds.heartbeat_seconds, snapshot=snapshot, greet=greet
        )
        self.common = replace(common, history=self.history, recovery=self.resumer)

    def decode(
        self, payload: bytes, max_bytes: int, entry: EntryId | None = None, to: Targets = AS_IT_SAYS
    ) -> Notification:
        """Read a payload of this partition, as `messages.decode` does. Raises MessageError, too, if it is for
        nobody whose messages are here."""
        if payload == GAP:
            return gap_message().within(None, (ALL,))
        notification = messages.decode(payload, max_bytes, entry, to)
        here = self._partitioning.narrow(notification, self.partition)
        if here is None:
            raise MessageError(f"not for {self.key}: its targets are in other partitions of SSE_REDIS_STREAM")
        return here
