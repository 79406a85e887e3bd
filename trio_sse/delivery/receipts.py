"""Receipts: what became of messages that were published from this node, or that ask for an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import trio

from trio_sse.delivery.traces import Trace


@dataclass(slots=True, eq=False)
class Receipt:
    """What became of one message on this node. Complete once `done` is set."""

    id: str | None = None
    took: int = 0
    """Connections it was written to."""
    buffered: int = 0
    """Connections it waits for, in their buffer or in a replay."""
    dropped: int = 0
    """Connections that lost it, and get a `gap`."""
    reply_to: str | None = None
    """The Redis list that is to be told, once it is complete."""
    trace: Trace | None = None
    """What is to be told, once it is complete."""
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def streams(self) -> int:
        """Connections that it was for."""
        return self.took + self.buffered + self.dropped


def together(receipts: Sequence[Receipt]) -> Receipt:
    """What became of a message that came back in several parts: each stream took it from one of them."""
    if len(receipts) == 1:
        return receipts[0]
    whole = Receipt(
        took=sum(one.took for one in receipts),
        buffered=sum(one.buffered for one in receipts),
        dropped=sum(one.dropped for one in receipts),
    )
    if all(one.done.is_set() for one in receipts):
        whole.done.set()
    return whole


class Receipts:
    """Receipts of messages on their way through Redis and back. A message is recognised by its bytes; of
    equal ones, the first sent comes first.

    One that comes back several times, from partitions of the log, has a receipt for each: see `at`.
    """

    def __init__(self, whole: Receipts | None = None) -> None:
        self.expected: dict[bytes, deque[Receipt]] = {}
        """By payload. Only this class changes it."""
        self._whole = self if whole is None else whole
        self._places: dict[Hashable, Receipts] = {}
        self._answer: Callable[[Receipt], None] | None = None

    @property
    def answer(self) -> Callable[[Receipt], None] | None:
        """Takes a complete receipt that has a `reply_to`. None: messages may not ask for an answer."""
        return self._whole._answer

    @answer.setter
    def answer(self, answer: Callable[[Receipt], None] | None) -> None:
        self._whole._answer = answer

    def at(self, place: Hashable) -> Receipts:
        """Those of messages that come back from this place, and from no other. Their answers are the same."""
        if (found := self._places.get(place)) is None:
            found = self._places[place] = Receipts(self._whole)
        return found

    def __bool__(self) -> bool:
        return bool(self.expected)

    def expect(self, payload: bytes) -> Receipt:
        """A receipt for a message that is about to be sent. The caller must `forget` it in the end."""
        receipt = Receipt()
        self.expected.setdefault(payload, deque()).append(receipt)
        return receipt

    def claim(self, payload: bytes) -> Receipt | None:
        """The receipt of a message that has come back, if it was sent from here."""
        waiting = self.expected.get(payload)
        if waiting is None:
            return None
        receipt = waiting.popleft()
        if not waiting:
            del self.expected[payload]
        return receipt

    def asked(self, reply_to: str, receipt: Receipt | None) -> Receipt | None:
        """The receipt of a message that asks for an answer. `receipt` is the one that it has anyway."""
        if self.answer is not None:
            receipt = receipt or Receipt()
            receipt.reply_to = reply_to
        return receipt

    def forget(self, payload: bytes, receipt: Receipt) -> None:
        """Stop waiting for it. Harmless if it was claimed."""
        waiting = self.expected.get(payload)
        if waiting is not None and receipt in waiting:
            waiting.remove(receipt)
            if not waiting:
                del self.expected[payload]
