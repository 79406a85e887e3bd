"""A log in partitions without Redis: what is read is given to the lanes by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.support.inside import Client, flush_now
from trio_sse.counters import Counters
from trio_sse.delivery.connection import Common
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.lane import Bounds, Lane
from trio_sse.delivery.lanes import Lanes
from trio_sse.delivery.partitions import Layout, Partition, Partitioning
from trio_sse.delivery.receipts import Receipts
from trio_sse.delivery.resume import Resumer, Start
from trio_sse.delivery.targets import Target, followed, topic

TOPICS = ["a", "b", "c", "d"]
ALL_TARGETS: list[Target] = ["ann", "bob", *map(topic, TOPICS)]


class World:
    """A log in partitions, and a process that reads it."""

    def __init__(
        self, partitions: int = 4, *, capacity: int = 10, messages: int = 1000, disconnect: bool = False
    ) -> None:
        self.layout = Layout("notes", partitions)
        self.now = 1000.0
        self.counters = Counters()
        history = History("", messages=1, seconds=1, max_bytes=1, clock=self.clock)
        common = Common(
            self.counters, history, Resumer(history, heartbeat_seconds=30.0), capacity, disconnect
        )
        self.lanes = Lanes(
            Partitioning([self.layout]),
            bounds=Bounds(messages * partitions, 300.0, 1 << 24, 100, 1 << 20, 30.0),
            counters=self.counters,
            receipts=Receipts(),
            common=common,
            clock=self.clock,
            wall_clock=self.clock,
        )
        self.published: list[tuple[Target, ...] | None] = []
        self.entries: dict[Partition, int] = {}

    def clock(self) -> float:
        return self.now

    def open(
        self, user: str | None, topics: Sequence[str] = (), *, busy: bool = False, **start: Any
    ) -> Client:
        braid = self.lanes.open(followed(user, topics))
        self.lanes.begin(braid, Start(**start))
        return Client(braid, busy=busy)

    def read(self) -> None:
        """Begin to read what is to be read: it has nothing."""
        for lane in self.lanes.take_new():
            lane.history.filled_from((0, 0))
            lane.history.read_up_to((self.entries.get(lane.partition, 0), 0))
            self.lanes.was_tried(lane)

    def publish(self, targets: tuple[Target, ...] | None, **fields: Any) -> None:
        """To each partition; those that nobody reads are skipped."""
        self.published.append(targets)
        names: dict[str, Any] = {"user_id": "*"}
        if targets is not None:
            users = [one for one in targets if not one.startswith("\0")]
            topics = [one[1:] for one in targets if one.startswith("\0")]
            names = {name: value for name, value in (("user_id", users), ("topic", topics)) if value}
        payload = json.dumps({**names, "n": len(self.published), **fields}).encode()
        for number in self.layout.numbers(targets):
            partition = Partition(self.layout.partitions, number)
            self.entries[partition] = self.entries.get(partition, 0) + 1
            if (lane := self.lanes.lanes.get(partition)) is not None:
                self.arrive(lane, payload, (self.entries[partition], 0))

    @staticmethod
    def arrive(lane: Lane, payload: bytes, entry: EntryId) -> None:
        lane.hub.dispatch(lane.decode(payload, 10_000, entry), entry)
        flush_now(lane.hub)

    def for_those(self, follows: set[Target]) -> list[int]:
        """The numbers of the messages for whoever follows these."""
        return [
            number
            for number, targets in enumerate(self.published, 1)
            if targets is None or follows.intersection(targets)
        ]
