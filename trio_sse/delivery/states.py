"""The states of a connection, and which may follow which."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a connection is between joining the hub and leaving it.

    ===========  ========================================  ===========================================
    State        What the client gets                      Next
    ===========  ========================================  ===========================================
    WAITING      heartbeats alone: its place, or a page    `begin` → CATCHING_UP
                 of the log, is not there yet              `end` → CLOSED, with the last words
    CATCHING_UP  its replay, as quickly as its outlet      all that is kept was taken → LIVE
                 takes it; new messages are part of it     what comes next is not in memory → WAITING
                                                           `end` → CLOSED, behind what was taken
    LIVE         every message, at once or by way of       `end` → CLOSED, behind all that waits
                 the memory channel
    CLOSED       what waits, and nothing new               `leave` → LEFT
    LEFT         nothing: the client is gone
    ===========  ========================================  ===========================================

    "What waits" is what the memory channel has, a gap for what it had no room for, and notices. The outlet
    may still take it while the connection is CLOSED.
    """

    WAITING = enum.auto()
    CATCHING_UP = enum.auto()
    LIVE = enum.auto()
    CLOSED = enum.auto()
    LEFT = enum.auto()

    __hash__ = object.__hash__  # that of Enum is a function in Python, and called for each look at _NEXT

    def may_become(self, state: State) -> bool:
        """Whether `state` may come next."""
        return state in _NEXT[self]


_NEXT = {
    State.WAITING: {State.CATCHING_UP, State.CLOSED},
    State.CATCHING_UP: {State.WAITING, State.LIVE, State.CLOSED},
    State.LIVE: {State.CLOSED},
    State.CLOSED: {State.LEFT},
    State.LEFT: set[State](),
}
