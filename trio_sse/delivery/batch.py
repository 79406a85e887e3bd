"""Messages that leave together: encoded once, however many connections they go to."""

from __future__ import annotations

from bisect import bisect_right

from trio_sse.delivery import sse
from trio_sse.delivery.receipts import Receipt


class Batch:
    """Frames for one user, oldest first, with the sequence of each.

    It may grow until the first connection reads `data` or `chunk`: these are made once, and shared.
    """

    __slots__ = ("_chunk", "_data", "first", "frames", "receipts", "sequences")

    def __init__(
        self, frames: list[bytes], sequences: list[int], receipts: dict[int, Receipt] | None = None
    ) -> None:
        self.frames = frames
        self.sequences = sequences
        self.first = sequences[0]
        self.receipts = receipts
        """By sequence, for messages that were published from this node. None if there are none."""
        self._data = b""
        self._chunk = b""

    @classmethod
    def notice(cls, frame: bytes) -> Batch:
        """A single frame without a sequence, such as a heartbeat. It counts as newer than everything."""
        return cls([frame], [_NEWEST])

    @classmethod
    def merged(cls, one: Batch, other: Batch) -> Batch:
        """The frames of both in the order of their sequences."""
        numbered = sorted(
            [*zip(one.sequences, one.frames, strict=True), *zip(other.sequences, other.frames, strict=True)]
        )
        receipts = {**(one.receipts or {}), **(other.receipts or {})}
        return cls([frame for _, frame in numbered], [sequence for sequence, _ in numbered], receipts or None)

    @property
    def last(self) -> int:
        """The sequence of the newest frame."""
        return self.sequences[-1]

    def add(self, frame: bytes, sequence: int, receipt: Receipt | None = None) -> None:
        """Add a frame that is newer than all others."""
        if receipt is not None:
            self.receipts = {**(self.receipts or {}), sequence: receipt}
        self.frames.append(frame)
        self.sequences.append(sequence)

    @property
    def data(self) -> bytes:
        """All frames as one write."""
        if not self._data:
            self._data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        return self._data

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
        return Batch(self.frames[start:], self.sequences[start:], self.receipts)


_NEWEST = 1 << 62
