"""What streams follow → what Redis must be subscribed to, target by target, and what is known since when.
Synchronous, no I/O."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from trio_sse.delivery.connection import Connection
from trio_sse.delivery.history import History
from trio_sse.delivery.targets import ALL, Followed, Target, each

LINGER_SECONDS = (10.0, 20.0)
"""How long a target stays subscribed when its last follower has left: a page that is loaded again, or comes
back after `retry`, misses nothing and costs nothing. Spread, so that a crowd that leaves together is not
unsubscribed in one go."""

WINDOW = 20_000
"""Targets that may be asked for and not be confirmed yet. A Redis cuts off a subscriber for which more than
`client-output-buffer-limit pubsub` waits, and each confirmation is a hundred bytes."""


class Since(NamedTuple):
    """From when on every message of a target is known here: after this sequence, and this time on the clock
    of the history."""

    sequence: int
    at: float


NEVER = Since(0, 0.0)


class Shard:
    """What one Redis is to be subscribed to, and is. One link serves it at a time."""

    def __init__(self) -> None:
        self.up = False
        """Whether a link serves it."""
        self.lost = False
        """Whether one did not, or ceased to, since the last time that all was subscribed."""
        self.queue: dict[Target, None] = {}
        """To be subscribed."""
        self.asked: dict[Target, None] = {}
        """Asked for and not confirmed yet, in this order."""
        self.has: dict[Target, None] = {}
        """Confirmed."""
        self.drop: dict[Target, None] = {}
        """To be unsubscribed."""
        self.owed: dict[Target, None] = {}
        """Targets of which messages may be missing, until all of them are subscribed again."""
        self.back: dict[Target, None] = {}
        """Those of them that are."""
        self.changed = asyncio.Event()
        """Set while there is something to send."""
        self.settled = False
        """Whether it is known that no target it has belongs to another shard. To find out takes as long as
        the rest of a confirmation."""
        self.refuses = False
        """Whether it has refused a target for now: it is to be asked again a little later."""

    def take_queue(self, most: int) -> list[Target]:
        """The next targets to ask for, which now count as asked for."""
        most = min(most, WINDOW - len(self.asked))
        taken: list[Target] = []
        for target in self.queue:
            if len(taken) >= most:
                break
            taken.append(target)
        for target in taken:
            del self.queue[target]
        self.asked.update(dict.fromkeys(taken))
        return taken

    def take_drop(self, most: int) -> list[Target]:
        """The next targets to unsubscribe."""
        taken = list(self.drop)[:most] if len(self.drop) > most else list(self.drop)
        for target in taken:
            del self.drop[target]
        return taken


class Interest:
    """Keeps the subscriptions of all shards as the streams need them.

    A target is subscribed from its first follower on, until some seconds after its last one. A stream waits
    until all it follows is subscribed: then every message that is published after its `connected` reaches
    it. If a Redis cannot be reached, its streams do not wait: they get a `gap` when it is back.
    """

    def __init__(
        self,
        history: History,
        shard_of: Callable[[Target], Shard],
        announce: Callable[[str, Iterable[Target]], None],
        unknown: Callable[[Target], None] = lambda _: None,
    ) -> None:
        """`announce` tells those who follow some targets of a `gap`. `unknown` is told of each target whose
        messages do not come here any more."""
        self._history = history
        self._shard_of = shard_of
        self._announce = announce
        self._unknown = unknown
        self._followed: dict[Target, None] = {}
        self._since: dict[Target, Since] = {}
        self._latest = NEVER
        self._read: object | None = None
        self._lingering: dict[Target, int] = {}
        self._ends: dict[int, dict[Target, None]] = {}
        self._waiting: dict[Target, dict[Connection, None]] = {}
        self._begins: dict[Connection, tuple[int, Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._since)

    # What the hub tells.

    def followed(self, target: Target) -> None:
        """It has its first follower."""
        self._followed[target] = None
        if not self._unlinger(target):  # else it is subscribed, or about to be
            shard = self._shard_of(target)
            self._want(shard, target)

    def unfollowed(self, target: Target) -> None:
        """Its last follower has left."""
        del self._followed[target]
        ends = int(self._history.now() + random.uniform(*LINGER_SECONDS))  # noqa: S311  jitter
        self._lingering[target] = ends
        self._ends.setdefault(ends, {})[target] = None

    # What streams ask.

    def when_subscribed(self, connection: Connection, begin: Callable[[], None]) -> None:
        """Call `begin` when all that `connection` follows is subscribed: now, or with the confirmation."""
        missing = 0
        for target in (*each(connection.follows), ALL):
            if target not in self._since:
                shard = self._shard_of(target)
                if shard.up:
                    self._waiting.setdefault(target, {})[connection] = None
                    missing += 1
                else:
                    shard.lost = True  # what comes until a link is up is not known
        if missing:
            self._begins[connection] = missing, begin
        else:
            self._read = None
            begin()

    def forget(self, connection: Connection) -> None:
        """`connection` has left. Harmless if it does not wait."""
        if self._begins.pop(connection, None) is not None:
            for target in (*each(connection.follows), ALL):
                if (waiting := self._waiting.get(target)) is not None:
                    waiting.pop(connection, None)
                    if not waiting:
                        del self._waiting[target]

    def since(self, follows: Followed) -> Since:
        """Since when all messages for those who follow this are known. A target that is not subscribed does
        not count: a `gap` will be told when it is."""
        found = [since for target in (*each(follows), ALL) if (since := self._since.get(target)) is not None]
        return max(found, default=NEVER)  # the later the sequence, the later the time

    def hears(self, targets: Iterable[Target] | None) -> bool:
        """Whether a message for one of these, or for everybody (None), comes to this process."""
        return any(target in self._since for target in (ALL,) if targets is None) or any(
            target in self._since for target in targets or ()
        )

    # What the links tell.

    def link_up(self, shard: Shard) -> None:
        """A new link serves `shard`: all that is followed there is to be subscribed."""
        had = dict.fromkeys((*shard.has, *shard.asked, *shard.queue))
        for places in (shard.has, shard.queue, shard.asked, shard.drop, shard.back):
            places.clear()
        for target in had:
            if target not in self._followed:
                self._let_go(target)
            elif shard.settled or self._shard_of(target) is shard:
                shard.queue[target] = None
            else:
                self.moved(shard, target)
        shard.up, shard.refuses = True, False
        owed = shard.owed  # some may have come from another shard while no link served this one
        shard.owed = {target: None for target in shard.queue if shard.lost or target in owed}
        shard.lost = False
        shard.changed.set()

    def link_lost(self, shard: Shard) -> None:
        """No link serves `shard` now. Messages for all that is followed there may be missing until one
        does."""
        shard.up, shard.lost = False, True
        for target in (*shard.asked, *shard.queue):
            self._let_begin(target)

    def confirmed(self, shard: Shard, target: Target) -> None:
        """Redis has subscribed to the target."""
        if target in shard.has:
            return
        shard.asked.pop(target, None)
        if shard.queue:
            shard.queue.pop(target, None)  # it was taken for refused
            if len(shard.asked) <= WINDOW // 2:
                shard.changed.set()
        wanted = target in self._followed or target in self._lingering
        if not wanted or not (shard.settled or self._shard_of(target) is shard):
            shard.drop[target] = None
            shard.changed.set()
            self.moved(shard, target)
            return
        if target not in self._since:
            self._unknown(target)  # what copies for others have brought is not all
        shard.has[target] = None
        if target in shard.owed:
            shard.back[target] = None
        self._since[target] = self._from_now()
        if target in self._waiting:
            self._let_begin(target)
        if len(shard.back) == len(shard.owed):
            self._tell_owed(shard)

    def refused(self, shard: Shard, target: Target) -> None:
        """Redis does not subscribe to the target now. It is to be asked again, and streams do not wait for
        that."""
        shard.asked.pop(target, None)
        shard.refuses = True
        if target not in self._followed or self._shard_of(target) is not shard:
            self.moved(shard, target)
            return
        self._want(shard, target)
        shard.owed[target] = None
        self._let_begin(target)

    def unsubscribed(self, shard: Shard, target: Target) -> None:
        """Redis has unsubscribed from the target: it was told to, or another node serves it now."""
        # One that was to be left is in no `has`: if it is wanted again, that is confirmed later.
        if target in shard.has:
            self.moved(shard, target)

    def moved(self, shard: Shard, target: Target) -> None:
        """`shard` does not serve the target any more. Another one is to, and may have missed messages.
        Harmless if the other one was told before."""
        missed = shard.up or shard.lost or target in shard.owed or target in self._since
        for places in (shard.has, shard.queue, shard.asked):
            places.pop(target, None)
        self._excuse(shard, target)
        new = self._shard_of(target)
        if target not in self._followed:
            if new is shard or not _is_at(new, target):
                self._let_go(target)
            return
        if new is not shard and _is_at(new, target):
            return
        self._want(new, target)
        if missed:
            new.owed[target] = None
        if not new.up:
            self._let_begin(target)

    def expire(self) -> None:
        """Unsubscribe what has had no follower for long enough. To be called every second."""
        now = self._history.now()
        for end in [end for end in self._ends if end <= now]:
            for target in list(self._ends[end]):
                self._let_go(target)
                shard = self._shard_of(target)
                shard.queue.pop(target, None)
                if target in shard.has:
                    del shard.has[target]
                    shard.drop[target] = None
                    shard.changed.set()
                self._excuse(shard, target)

    def _want(self, shard: Shard, target: Target) -> None:
        """It is to be subscribed to there."""
        shard.drop.pop(target, None)
        if target not in shard.asked:
            shard.queue[target] = None
            shard.changed.set()

    def _let_go(self, target: Target) -> None:
        """From now on it is not known what comes for it."""
        self._unlinger(target)
        self._since.pop(target, None)
        self._unknown(target)

    def _unlinger(self, target: Target) -> bool:
        ends = self._lingering.pop(target, None)
        if ends is None:
            return False
        same = self._ends[ends]
        del same[target]
        if not same:
            del self._ends[ends]
        return True

    def _from_now(self) -> Since:
        """An id that was given before is below it, whatever came since. What one read confirms shares it, as
        no id is given in between unless a message comes or a stream begins."""
        history = self._history
        if history.read is None or history.read is not self._read or history.latest != self._latest.sequence:
            self._read = history.read
            self._latest = Since(history.skip(), history.now())
        return self._latest

    def _let_begin(self, target: Target) -> None:
        self._read = None
        for connection in self._waiting.pop(target, ()):
            missing, begin = self._begins.pop(connection)
            if missing == 1:
                begin()
            else:
                self._begins[connection] = missing - 1, begin

    def _excuse(self, shard: Shard, target: Target) -> None:
        """Nobody waits for the target to be back there."""
        if target in shard.owed:
            del shard.owed[target]
            shard.back.pop(target, None)
            self._tell_owed(shard)
            shard.changed.set()

    def _tell_owed(self, shard: Shard) -> None:
        if shard.owed and len(shard.back) == len(shard.owed):
            back, shard.back, shard.owed = shard.back, {}, {}
            # One who left since its confirmation, with an id from then, has not been told.
            self._since.update(dict.fromkeys(back, Since(self._history.skip(), self._history.now())))
            self._announce("redis_reconnected", back)


def _is_at(shard: Shard, target: Target) -> bool:
    """Whether the target is to be subscribed there, or is."""
    return target in shard.has or target in shard.asked or target in shard.queue
