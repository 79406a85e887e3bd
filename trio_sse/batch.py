"""Messages that leave together: encoded once, however many connections they go to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

from trio_sse import wire


class Batch:
    """Frames for one user, oldest first, with the sequence number of each.

    What is derived from them (`data`, `chunk`) is made when the first connection asks for it and shared
    by the rest.
    """

    def __init__(self, frames: Sequence[bytes], sequences: Sequence[int]) -> None:
        self.frames = frames
        self.sequences = sequences
        self.first = sequences[0]

    @classmethod
    def unnumbered(cls, frame: bytes) -> Batch:
        """A single frame that belongs to no position, such as a heartbeat: newer than everything."""
        return cls((frame,), (_NEWEST,))

    @cached_property
    def data(self) -> bytes:
        """All frames as one write."""
        return self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)

    @cached_property
    def chunk(self) -> bytes:
        """`data` as one HTTP/1.1 chunk."""
        return wire.chunk(self.data)

    def after(self, sequence: int) -> Batch | None:
        """What of it is newer than `sequence`, or None if nothing is."""
        start = bisect_right(self.sequences, sequence)
        if start == len(self.frames):
            return None
        return Batch(self.frames[start:], self.sequences[start:])


_NEWEST = 1 << 62
