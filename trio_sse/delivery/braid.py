"""One stream from several partitions of a log: a connection of its own to each, and ids that name a place in
all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Common, Connection
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.outlet import Outlet
from trio_sse.delivery.partitions import Partition, place_text
from trio_sse.delivery.sse import event_name
from trio_sse.delivery.states import State
from trio_sse.delivery.targets import Followed, Target

_ID = re.compile(rb"^id: [0-9]+:([^\n]*)\n", re.MULTILINE)  # a line of data begins with `data: `


class Strand(Connection):
    """The part of a stream that one partition has. It gets no message that the stream gets from another
    one."""

    __slots__ = ("_skips", "braid", "partition")

    def __init__(
        self,
        braid: Braid,
        partition: Partition,
        follows: Followed,
        common: Common,
        skips: frozenset[Target],
    ) -> None:
        super().__init__(follows, common)
        self.braid = braid
        self.partition = partition
        self._skips = skips

    @property
    def skips(self) -> frozenset[Target]:
        return self._skips

    def offer(self, batch: Batch) -> bool:
        if not (self._skips and batch.marks) or (own := self._own(batch, self._skips)) is batch:
            return super().offer(batch)
        self._common.counters.balance.published -= batch.messages - (own.messages if own is not None else 0)
        if own is not None and super().offer(own):
            self._took(own)
        return False

    def ends(self, why: str) -> None:
        """The stream ends with it, for the same reason."""
        super().ends(why)
        self.braid.ends(why)

    @staticmethod
    def _own(batch: Batch, skips: frozenset[Target]) -> Batch | None:
        """The part of `batch` that is for this connection, or None if nothing is."""
        marks, receipts = batch.marks or {}, batch.receipts
        skipped = {sequence for sequence, mark in marks.items() if not skips.isdisjoint(mark.elsewhere)}
        if not skipped:
            return batch
        places = [place for place, sequence in enumerate(batch.sequences) if sequence not in skipped]
        if not places:
            return None
        if receipts is not None:
            receipts = {sequence: one for sequence, one in receipts.items() if sequence not in skipped}
        frames = [batch.frames[place] for place in places]
        return Batch(frames, [batch.sequences[place] for place in places], receipts or None, marks)


class Braid(Connection):
    """A stream whose messages come from several partitions, or from one.

    In each partition it has a strand: a connection that is in that partition's hub, begins at its own place,
    and keeps what its client does not take. This one is what the rest of the service sees. It passes on what
    the strands have, and puts the places of all of them into each id. Messages of one partition stay in
    order. A message waits while the place of a strand is not known: its id would not name it.
    """

    __slots__ = (
        "_greet",
        "_leave",
        "_notices",
        "_parts",
        "_replayed",
        "_said",
        "_strands",
        "_words",
        "after",
    )

    def __init__(self, follows: Followed, common: Common, leave: Callable[[Braid], None]) -> None:
        """`leave` takes the strands out of their hubs. It is called once or more."""
        super().__init__(follows, common)
        self.after: Any = None
        """What it waits for. Only whoever begins it changes this."""
        self._leave = leave
        self._strands: dict[Partition, Strand] = {}
        self._parts: dict[Partition, str | None] = {}
        self._greet: Callable[[Connection, str | None, int], bytes] | None = None
        self._said = b""
        self._replayed: dict[Partition, int] = {}
        self._notices: dict[str, bytes] = {}
        self._words = b""

    @property
    def strands(self) -> dict[Partition, Strand]:
        """In the order in which they count. Empty before they are known."""
        return self._strands

    @property
    def catching_up(self) -> bool:
        return self.begun and any(strand.catching_up for strand in self._strands.values())

    @property
    def has_waiting(self) -> bool:
        return any(strand.has_waiting for strand in self._strands.values())

    @property
    def untold(self) -> int:
        return sum(strand.untold for strand in self._strands.values())

    def weave(
        self,
        strands: dict[Partition, Strand],
        parts: dict[Partition, str],
        greet: Callable[[Connection, str | None, int], bytes],
    ) -> None:
        """These are its strands, which are about to begin. `parts` has the places that the client gave.
        `greet` makes the first words, when all have begun."""
        self._strands = strands
        self._parts = {partition: parts.get(partition) for partition in strands}
        self._greet = greet
        for strand in strands.values():
            strand.attach(_Way(self, strand.partition))

    def began(self, partition: Partition, position: str | None, replayed: int) -> None:
        """The strand of this partition is about to begin at `position`. None: its first id says where."""
        if position is not None:
            self._parts[partition] = position.partition(":")[2]
        self._replayed[partition] = replayed
        if len(self._replayed) == len(self._strands) and self._greet is not None and not self.closed:
            self._become(State.CATCHING_UP)
            self._become(State.LIVE)
            self._said = self._greet(self, self._place(), sum(self._replayed.values()))
            self._greet = None

    def attach(self, outlet: Outlet) -> None:
        self._outlet = outlet
        if self.catching_up or self._said or self._words:
            outlet.pull()
        if self.closed:
            outlet.close()

    def end(self, last_words: bytes = b"", why: str = "") -> None:
        if self.closed:
            return
        self.ends(why or event_name(last_words))
        self._become(State.CLOSED)
        for strand in self._strands.values():
            strand.end()
        outlet = self._outlet
        if last_words and not (outlet is not None and self._flows and outlet.take(Batch.notice(last_words))):
            self._words = last_words
        if outlet is not None:
            if self._words:
                outlet.pull()
            outlet.close()
        if self._channel is not None:
            self._channel[0].close()

    def tell(self, kind: str, batch: Batch) -> None:
        if not (self.closed or (self._outlet is not None and self._outlet.take(batch))):
            self._notices[kind] = batch.data

    def take_waiting(self) -> bytes:
        data = b"".join(self._notices.values())
        self._notices = {}
        if self._replayed and len(self._replayed) == len(self._strands):
            data += self._said
            self._said = b""
            data += self._woven()
        if self.closed and len(data) < PAGE_BYTES:
            data += self._words
            self._words = b""
        return data

    def _woven(self) -> bytes:
        """What the strands have, a page and a little at most. Those whose place is not known come first, and
        alone."""
        parts = self._parts
        data = b""
        for partition in sorted(parts, key=lambda one: parts[one] is not None):
            if parts[partition] is not None and not self._complete:
                break
            data += self.renamed(partition, self._strands[partition].take_waiting())
            if len(data) >= PAGE_BYTES:
                break
        return data

    def renamed(self, partition: Partition, data: bytes) -> bytes:
        """Frames of a partition, with ids of this stream. It has them with this."""
        if len(self._strands) == 1:
            return data

        def name(found: re.Match[bytes]) -> bytes:
            self._parts[partition] = found[1].decode()
            place = self._place()
            return b"" if place is None else b"id: %b\n" % place.encode()

        return _ID.sub(name, data)

    def take(self, partition: Partition, batch: Batch) -> bool:
        """Pass on what a strand has, unless earlier bytes still wait, as Outlet.take does."""
        if self._outlet is None or not self._flows:
            return False
        if len(self._strands) == 1:
            return self._outlet.take(batch)
        renamed = _Renamed(batch.frames, batch.sequences, braid=self, partition=partition)
        if not self._outlet.take(renamed):
            return False
        self._common.counters.bytes_sent += len(renamed.joined)  # nobody reads the bytes of `batch`
        return True

    def pull(self) -> None:
        """A strand has something."""
        if self._outlet is not None and self.begun:
            self._outlet.pull()

    def leave(self) -> None:
        self.end()
        if self.state is State.CLOSED:
            self._become(State.LEFT)
        self._outlet = self._greet = None
        self.caught_up()
        self._leave(self)
        self._strands = {}

    def caught_up(self) -> None:
        super().caught_up()
        for strand in self._strands.values():
            strand.caught_up()

    @property
    def _complete(self) -> bool:
        """Whether an id can be made. One of a single partition comes with each message."""
        return len(self._strands) == 1 or None not in self._parts.values()

    @property
    def _flows(self) -> bool:
        """Whether messages may leave as they come: the first words are on their way, and ids can be made."""
        return not self._said and self.state is not State.WAITING and self._complete

    def _place(self) -> str | None:
        """The id of the place that its client has reached. None while it is not known."""
        parts = [(partition, part) for partition, part in self._parts.items() if part is not None]
        return place_text(parts) if len(parts) == len(self._parts) else None


class _Way:
    """Where the bytes of a strand go: an Outlet."""

    __slots__ = ("_braid", "_partition")

    def __init__(self, braid: Braid, partition: Partition) -> None:
        self._braid = braid
        self._partition = partition

    def take(self, batch: Batch) -> bool:
        return self._braid.take(self._partition, batch)

    def pull(self) -> None:
        self._braid.pull()

    def close(self) -> None:
        self._braid.end()  # its strand has ended by itself: the stream ends with it


class _Renamed(Batch, gc=False):
    """A batch of one strand. Its bytes are made when an outlet takes it: what waits leaves before, and moves
    the place of the other strands."""

    braid: Any = None
    partition: Any = None

    @property
    def data(self) -> bytes:
        if not self.joined:
            self.joined = self.braid.renamed(self.partition, b"".join(self.frames))
        return self.joined
