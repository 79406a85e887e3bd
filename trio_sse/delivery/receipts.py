"""What became of messages that were published from here, told by those who saw it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio


@dataclass(slots=True, eq=False)
class Receipt:
    """The way of one message on this node. Complete once `done` is set."""

    id: str | None = None
    took: int = 0
    """Connections it was written to."""
    buffered: int = 0
    """Connections it waits for, in their buffer or in a replay."""
    dropped: int = 0
    """Connections that lost it, and were told by a `gap`."""
    done: trio.Event = field(default_factory=trio.Event)


class Receipts:
    """Messages on their way through Redis and back. Recognised by their bytes, the first sent first."""

    def __init__(self) -> None:
        self._expected: dict[bytes, deque[Receipt]] = {}

    def __bool__(self) -> bool:
        return bool(self._expected)

    def expect(self, payload: bytes) -> Receipt:
        """A receipt for a message that is about to be sent. The caller must `forget` it in the end."""
        receipt = Receipt()
        self._expected.setdefault(payload, deque()).append(receipt)
        return receipt

    def claim(self, payload: bytes) -> Receipt | None:
        """The receipt of a message that has come back, if it was sent from here."""
        waiting = self._expected.get(payload)
        if waiting is None:
            return None
        receipt = waiting.popleft()
        if not waiting:
            del self._expected[payload]
        return receipt

    def forget(self, payload: bytes, receipt: Receipt) -> None:
        """Await it no longer. Harmless when it was claimed."""
        waiting = self._expected.get(payload)
        if waiting is not None and receipt in waiting:
            waiting.remove(receipt)
            if not waiting:
                del self._expected[payload]
