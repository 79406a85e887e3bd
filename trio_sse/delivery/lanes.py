"""Which partitions of the log are read here, and where a stream begins in each."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial

import trio

from trio_sse.counters import Counters
from trio_sse.delivery import notices
from trio_sse.delivery.braid import Braid, Strand
from trio_sse.delivery.connection import Common, Connection
from trio_sse.delivery.event_ids import EntryId, entry_text
from trio_sse.delivery.lane import Bounds, Lane
from trio_sse.delivery.logged_connection import LoggedBraid
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.partitions import Partition, Partitioning, Place, parse_place, part_text
from trio_sse.delivery.receipts import Receipts
from trio_sse.delivery.recorder import Recorder
from trio_sse.delivery.resume import Start, greeting
from trio_sse.delivery.targets import Followed, each
from trio_sse.delivery.traces import Traces

LINGER_SECONDS = 20.0
"""How long a partition is read after its last follower has left: a page that is loaded again finds memory as
it was."""

UNKNOWN_ID = "-"
"""An id that no log gives: the place is not known."""


class Lanes:
    """The partitions that are read. One is, from its first follower on, until some time after its last."""

    def __init__(
        self,
        partitioning: Partitioning,
        *,
        bounds: Bounds,
        counters: Counters,
        receipts: Receipts,
        common: Common,
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float],
    ) -> None:
        """`common` is that of the streams. `wall_clock` is in seconds since 1970."""
        self.partitioning = partitioning
        self.lanes: dict[Partition, Lane] = {}
        self.new: list[Lane] = []
        """Those that are to be read, and are not yet. Whoever reads them takes them."""
        self.changed = trio.Event()
        """Set while there are new ones."""
        self.recorder: Recorder | None = None
        """Remembers what comes, for SSE_ADMIN_TOKEN."""
        self.traces: Traces | None = None
        """Follows messages that ask for it, for SSE_TRACES_PER_SECOND."""
        self._share = bounds.share(partitioning.layouts[0].partitions)
        self._heartbeat_seconds = bounds.heartbeat_seconds
        self._counters = counters
        self._receipts = receipts
        self._common = common
        self._clock = clock
        self._wall_clock = wall_clock
        self._stops: dict[Partition, Callable[[], None]] = {}

    def open(self, follows: Followed, logged: str | None = None) -> Braid:
        """A stream that follows this. It is to begin, and to leave. `logged`: the address of the client, if
        it is to be logged."""
        if logged is not None:
            return LoggedBraid(follows, self._common, self._forget, logged)
        return Braid(follows, self._common, self._forget)

    def begin(self, connection: Connection, start: Start) -> None:
        """Let a stream begin where its client asks to, once all its partitions are read. Those that cannot be
        read now get a `gap` when they can."""
        assert isinstance(connection, Braid)
        place = None if start.last_event_id is None else parse_place(start.last_event_id)
        order = self.partitioning.order(connection.follows, place)
        lanes = [self._lane(partition) for partition in order]
        for lane in lanes:
            lane.followers += 1
        missing = [lane for lane in lanes if not lane.tried]
        begin = partial(self._begin, connection, start, place, lanes)
        connection.after = lanes, {lane.partition for lane in missing}, begin
        if not missing:
            begin()
        for lane in missing:
            lane.waiting[connection] = None

    def was_tried(self, lane: Lane) -> None:
        """Reading it was tried, whatever the outcome. Calling it again is harmless."""
        lane.tried = True
        waiting, lane.waiting = lane.waiting, {}
        for braid in waiting:
            _, missing, begin = braid.after
            missing.discard(lane.partition)
            if not missing:
                begin()

    def stops_by(self, lane: Lane, stop: Callable[[], None]) -> None:
        """`stop` ends the reading of a lane, when nobody follows it any more."""
        self._stops[lane.partition] = stop

    def expire(self) -> None:
        """Stop reading what has had no follower for long enough. To be called every second."""
        now = self._clock()
        for lane in list(self.lanes.values()):
            lane.history.evict()
            if not lane.followers and lane.idle_since + LINGER_SECONDS <= now:
                del self.lanes[lane.partition]
                if lane in self.new:
                    self.new.remove(lane)
                if (stop := self._stops.pop(lane.partition, None)) is not None:
                    stop()

    def heard(self, notification: Notification) -> list[Receipts]:
        """The receipts that will know a message that is published now: one for each partition of it that is
        read here. Nothing is published to partitions that are replaced."""
        layout = self.partitioning.layouts[0]
        found = [
            self.lanes.get(Partition(layout.partitions, number))
            for number in layout.numbers(notification.targets)
        ]
        return [lane.hub.receipts for lane in found if lane is not None and lane.tried]

    def take_new(self) -> list[Lane]:
        """Those that are to be read from now on."""
        new, self.new = self.new, []
        self.changed = trio.Event()
        return new

    def _lane(self, partition: Partition) -> Lane:
        lane = self.lanes.get(partition)
        if lane is None:
            lane = self.lanes[partition] = Lane(
                partition,
                self.partitioning,
                bounds=self._share,
                counters=self._counters,
                receipts=self._receipts.at(partition),
                common=self._common,
                clock=self._clock,
                greet=_tell_braid,
            )
            lane.hub.recorder, lane.hub.traces = self.recorder, self.traces
            self.new.append(lane)
            self.changed.set()
        return lane

    def _begin(self, braid: Braid, start: Start, place: Place | None, lanes: list[Lane]) -> None:
        if braid.closed:
            return
        order = [lane.partition for lane in lanes]
        skips = self.partitioning.skips(braid.follows, order)
        strands = {}
        for lane, skip in zip(lanes, skips, strict=True):
            own = [one for one in each(braid.follows) if lane.partition in self.partitioning.of(one)]
            follows = own[0] if len(own) == 1 else tuple(own)
            strand = strands[lane.partition] = Strand(braid, lane.partition, follows, lane.common, skip)
            if braid.record is not None:
                strand.record = braid.record.part(lane.partition, strand, follows)
        given = {} if place is None else place.parts
        parts = {one: part_text(one, given[one]) for one in order if one in given}
        braid.weave(strands, parts, partial(self._greet, place))
        for lane in lanes:
            lane.hub.join(strands[lane.partition])
        starts = self._starts(braid, start, place, lanes)
        for lane, own_start in zip(lanes, starts, strict=True):
            lane.resumer.begin(strands[lane.partition], own_start)

    def _starts(self, braid: Braid, start: Start, place: Place | None, lanes: list[Lane]) -> list[Start]:
        """Where to begin in each lane."""
        if start.last_event_id is not None:
            return [Start(self._id(lane, place)) for lane in lanes]
        if start.seconds is not None and not start.snapshot:
            then = round((self._wall_clock() - start.seconds) * 1000), 0
            return [Start(_up_to(lane, then)) for lane in lanes]
        if start.rewind:
            return [
                Start(rewind=count, snapshot=start.snapshot)
                for count in self._rewinds(braid, start.rewind, lanes)
            ]
        return [start] * len(lanes)

    def _id(self, lane: Lane, place: Place | None) -> str:
        if place is None:
            return UNKNOWN_ID
        if lane.partition in place.parts:
            entry = place.parts[lane.partition]
            return UNKNOWN_ID if entry is None else entry_text(entry)
        if any(partition.of == lane.partition.of for partition in place.parts):
            return _up_to(lane, place.latest)  # it did not follow this before
        return entry_text((0, 0))  # the id is from before there was such a log

    def _rewinds(self, braid: Braid, count: int, lanes: list[Lane]) -> list[int]:
        """How many messages to go back in each lane, to give the last `count` of all, by the times of their
        entries."""
        found: list[tuple[EntryId, int]] = []
        for number, lane in enumerate(lanes):
            strand, history = braid.strands[lane.partition], lane.history
            newest = history.newest(strand.follows, count, strand.skips)
            found += [(history.at(sequence) or (0, 0), number) for sequence in newest]
        if len(found) < count:
            return [count] * len(lanes)  # all that there is, and the notices before it
        last = [number for _, number in sorted(found)[-count:]]
        return [last.count(number) for number in range(len(lanes))]

    def _greet(
        self, place: Place | None, connection: Connection, position: str | None, replayed: int
    ) -> bytes:
        said = greeting(self._heartbeat_seconds, connection, position, replayed)
        assert isinstance(connection, Braid)
        if place is not None and not place.published and self._lacks(place, connection.strands):
            connection.told_gap("unknown_id")
            said += notices.gap("unknown_id", None)
        return said

    def _lacks(self, place: Place, strands: Container[Partition]) -> bool:
        """Whether a client with this id may lack something that these strands do not bring."""
        known = [partition for partition in place.parts if self.partitioning.knows(partition)]
        # Its log is read no more. One with a place in another log too has come since that one was written to:
        # whoever left the setting out says that it has nothing newer.
        if not known:
            return True
        # It followed more. What it was to get from there, and follows here too, is not known.
        return any(partition not in strands for partition in known)

    def _forget(self, braid: Braid) -> None:
        if braid.after is None:
            return
        lanes, _, _ = braid.after
        braid.after = None
        for lane in lanes:
            lane.waiting.pop(braid, None)
            lane.followers -= 1
            if not lane.followers:
                lane.idle_since = self._clock()
            if (strand := braid.strands.get(lane.partition)) is not None:
                lane.hub.leave(strand)


def _tell_braid(strand: Connection, position: str | None, replayed: int) -> bytes:
    assert isinstance(strand, Strand)
    strand.braid.began(strand.partition, position, replayed)
    return b""


def _up_to(lane: Lane, entry: EntryId) -> str:
    """The id of an entry, or of the last one that was read if that is older: the next one is the first that
    counts."""
    last = lane.history.last_entry
    return UNKNOWN_ID if last is None else entry_text(min(entry, last))
