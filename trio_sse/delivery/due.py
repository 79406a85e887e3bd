"""What a stream that is not live yet was promised of the messages in memory: its part of the balance."""

from __future__ import annotations

from typing import Protocol

from trio_sse.counters import Balance
from trio_sse.delivery.history import History, Page
from trio_sse.delivery.targets import Followed, Target


class Follower(Protocol):
    """Whom the messages are for. A Connection is one."""

    follows: Followed

    @property
    def skips(self) -> frozenset[Target]:
        """Messages that are for one of these too come from elsewhere."""
        ...


class Due:
    """Belongs to one connection, until it is live.

    A message in memory counts as published to the stream when the stream gets its place before it, or when it
    comes later. What only the log has counts when it is handed over: Redis may trim it until then.
    """

    __slots__ = ("_absent", "_up_to", "count")

    def __init__(self) -> None:
        self.count = 0
        """How many messages were promised and have not been given."""
        self._up_to = 0  # of the messages up to this sequence none is to be promised any more
        self._absent = 0  # how many of `count` memory no longer has: the log may

    def goes_on(self, balance: Balance, history: History, who: Follower, after: int, *, gap: bool) -> None:
        """The stream goes on after the sequence `after`. With a `gap` it is told that what it was promised
        before that is missing; without one, the log is to have it."""
        if after == history.latest and not self.count:  # as most begin
            self._up_to = after
            return
        self.catches_up(balance, history, who, after)
        missing = self.count - history.kept_for(who.follows, after, who.skips)
        if gap:
            self._account(balance, missing)
            balance.history_expired += missing
            missing = 0
        self._absent = missing

    def catches_up(self, balance: Balance, history: History, who: Follower, after: int = 0) -> None:
        """All that memory has by now after the sequence `after` is promised."""
        if self._up_to < history.latest:
            self._promise(balance, history.kept_for(who.follows, max(after, self._up_to), who.skips))
            self._up_to = history.latest

    def comes(self, balance: Balance, up_to: int, count: int) -> None:
        """So many new messages are given out, up to this sequence, and are part of the replay."""
        self._promise(balance, count)
        self._up_to = up_to

    @property
    def up_to(self) -> int:
        """Of the messages up to this sequence none is to be promised any more."""
        return self._up_to

    def from_memory(self, balance: Balance, page: Page) -> None:
        """A page of the replay has been taken."""
        self._account(balance, page.messages + page.expired)
        balance.replayed += page.messages
        balance.expired += page.expired

    def from_log(self, balance: Balance, count: int) -> None:
        """So many messages of the log have been taken. The first ones are those that memory had promised."""
        promised = min(count, self._absent)
        self._absent -= promised
        self._account(balance, promised)
        balance.published += count - promised
        balance.replayed += count

    def is_complete(self, balance: Balance, history: History) -> None:
        """All was given. What the log did not have after all has expired, if messages do; else it is missing,
        and nobody has said so."""
        if self._absent and history.any_expire:
            balance.expired += self._absent
        balance.owed -= self.count
        self.count = 0

    def ends(self, balance: Balance) -> None:
        """The stream ends first."""
        balance.stream_ended += self.count
        self._account(balance, self.count)

    def _promise(self, balance: Balance, count: int) -> None:
        self.count += count
        balance.published += count
        balance.owed += count

    def _account(self, balance: Balance, count: int) -> None:
        self.count -= count
        balance.owed -= count
