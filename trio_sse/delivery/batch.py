"""Messages that leave together: encoded once, however many connections they go to."""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from trio_sse.delivery import sse
from trio_sse.delivery.marks import Mark
from trio_sse.delivery.receipts import Receipt

NEWEST = 1 << 62
"""The sequence of what counts as newer than every message."""


class Batch(msgspec.Struct, gc=False):  # one is made for most messages, so it has no __init__ of Python
    """Frames for the same streams, oldest first, with the sequence of each.

    It may grow until the first connection reads `data` or `chunk`: these are made once, and shared.
    """

    frames: list[bytes]
    sequences: list[int]
    receipts: dict[int, Receipt] | None = None
    """By sequence, for messages that were published from this node. None if there are none."""
    marks: dict[int, Mark] | None = None
    """By sequence, for messages that have one. None if there are none."""
    joined: bytes = b""
    """`data`, once somebody has read it."""
    _chunk: bytes = b""

    @classmethod
    def of(
        cls, frame: bytes, sequence: int, receipt: Receipt | None = None, mark: Mark | None = None
    ) -> Batch:
        """A single frame."""
        return cls(
            [frame],
            [sequence],
            None if receipt is None else {sequence: receipt},
            None if mark is None else {sequence: mark},
        )

    @classmethod
    def notice(cls, frame: bytes) -> Batch:
        """A single frame without a sequence, such as a heartbeat. It counts as newer than everything."""
        return cls([frame], [NEWEST])

    @classmethod
    def merged(cls, *batches: Batch) -> Batch:
        """The frames of all, each once, in the order of their sequences."""
        numbered: dict[int, bytes] = {}
        receipts: dict[int, Receipt] = {}
        marks: dict[int, Mark] = {}
        for batch in batches:
            numbered.update(zip(batch.sequences, batch.frames, strict=True))
            receipts.update(batch.receipts or {})
            marks.update(batch.marks or {})
        sequences = sorted(numbered)
        frames = [numbered[sequence] for sequence in sequences]
        return cls(frames, sequences, receipts or None, marks or None)

    @property
    def first(self) -> int:
        """The sequence of the oldest frame."""
        return self.sequences[0]

    @property
    def last(self) -> int:
        """The sequence of the newest frame."""
        return self.sequences[-1]

    @property
    def messages(self) -> int:
        """How many of the frames are messages, and no notices of the service."""
        marks = self.marks
        if marks is None:
            return len(self.frames)
        return len(self.frames) - sum(
            [one in marks and marks[one].notice is not None for one in self.sequences]
        )

    def add(
        self, frame: bytes, sequence: int, receipt: Receipt | None = None, mark: Mark | None = None
    ) -> None:
        """Add a frame that is newer than all others."""
        if mark is not None:
            self.marks = {**(self.marks or {}), sequence: mark}
        if receipt is not None:
            self.receipts = {**(self.receipts or {}), sequence: receipt}
        self.frames.append(frame)
        self.sequences.append(sequence)

    @property
    def data(self) -> bytes:
        """All frames as one write."""
        if not self.joined:
            self.joined = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        return self.joined

    @property
    def chunk(self) -> bytes:
        """`data` as one HTTP/1.1 chunk."""
        if not self._chunk:
            self._chunk = sse.chunk(self.data)
        return self._chunk

    def after(self, sequence: int) -> Batch | None:
        """The part that is newer than `sequence`, or None if nothing is."""
        start = bisect_right(self.sequences, sequence)
        if start == len(self.frames):
            return None
        receipts = {one: receipt for one, receipt in (self.receipts or {}).items() if one > sequence}
        return Batch(self.frames[start:], self.sequences[start:], receipts or None, self.marks)
