"""Users → connections: who is here, what is owed to them. Synchronous, so it needs no lock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import trio

from trio_sse import wire
from trio_sse.batch import Batch
from trio_sse.connection import Connection, gap, heartbeat
from trio_sse.messages import Notification
from trio_sse.metrics import Counters

BEAT_TOGETHER_SECONDS = 0.05
"""Heartbeats due within so long go out together: waking up for each costs more than the heartbeat."""

Delivery = tuple[Batch, tuple[Connection, ...]]


class Hub:
    """All connections of this process, and the messages that have not left yet.

    `publish` only notes a message; the flusher takes what has gathered with `take` and offers it. Nothing
    here waits, so no caller can see a half-made change.
    """

    def __init__(
        self, counters: Counters, *, epoch: str, heartbeat_seconds: float,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:  # fmt: skip
        self.counters = counters
        self.closed = False
        self.pending = trio.Event()
        """Set while messages wait for the flusher."""
        self.pending_bytes = 0
        """How much waits for the flusher: each message once, however many connections it goes to."""
        self._taken = trio.Event()
        self._epoch = epoch
        self._sequence = 0
        self._clock = clock
        self._period = heartbeat_seconds
        self._users: dict[str, dict[Connection, None]] = {}
        # Every connection and when its next heartbeat is due. The period is one for all, so the order of
        # insertion is the order of time.
        self._due: OrderedDict[Connection, float] = OrderedDict()
        self._for_user: dict[str, Batch] = {}
        self._for_all: Batch | None = None

    @property
    def position(self) -> str:
        """The id of the latest message: `<start of this process>-<sequence>`."""
        return f"{self._epoch}-{self._sequence}"

    def __len__(self) -> int:
        return len(self._due)

    @property
    def users(self) -> list[str]:
        """Users with at least one connection."""
        return list(self._users)

    def join(self, connection: Connection) -> str:
        """Register a connection and return the position it starts from.

        Whatever is published from now on reaches it, so the caller registers first and greets after.
        A hub that was closed closes the connection, which then ends after its greeting.
        """
        connection.since = self._sequence
        self.counters.streams += 1
        if self.closed:
            connection.close()
        else:
            self._users.setdefault(connection.user_id, {})[connection] = None
            self._due[connection] = self._clock() + self._period
        return self.position

    def leave(self, connection: Connection) -> None:
        """Forget a connection and close it. Calling it again is harmless."""
        connection.close()
        if self._due.pop(connection, None) is not None:
            mine = self._users[connection.user_id]
            del mine[connection]
            if not mine:
                del self._users[connection.user_id]

    def publish(self, notification: Notification) -> bool:
        """Give a message its id and note it for the next flush. Returns whether anybody here is to get it."""
        self.counters.published += 1
        self._sequence += 1
        users = notification.users
        here = None if users is None else [user for user in users if user in self._users]
        if not self._due or here == []:
            return False
        frame = wire.event(notification.data, name=notification.event, id=self.position)
        if here is None:
            if self._for_all is None:
                self._for_all = Batch([frame], [self._sequence])
            else:
                self._for_all.add(frame, self._sequence)
        else:
            for user in here:
                if gathered := self._for_user.get(user):
                    gathered.add(frame, self._sequence)
                else:
                    self._for_user[user] = Batch([frame], [self._sequence])
        self.pending_bytes += len(frame)
        self.pending.set()
        return True

    async def wait_taken(self) -> None:
        """Wait until the flusher has taken what is pending."""
        if self.pending.is_set():
            await self._taken.wait()

    def take(self) -> list[Delivery]:
        """All that has gathered, with a snapshot of those it is for."""
        for_user, for_all = self._for_user, self._for_all
        self._for_user, self._for_all = {}, None
        self.pending = trio.Event()
        self.pending_bytes = 0
        self._taken.set()
        self._taken = trio.Event()
        deliveries = []
        if for_all is None:
            for user, batch in for_user.items():
                if connections := self._users.get(user):
                    deliveries.append((batch, tuple(connections)))
        else:
            for user, connections in self._users.items():
                own = for_user.get(user)
                batch = Batch.merged(own, for_all) if own else for_all
                deliveries.append((batch, tuple(connections)))
        return deliveries

    def announce_gap(self, reason: str) -> None:
        """Tell every connection that messages may be missing, how many is not known."""
        batch = Batch.unnumbered(gap(reason, None))
        for connection in list(self._due):
            connection.tell(reason, batch)

    def beat(self, limit: int = 500) -> float:
        """Send the heartbeats due about now, at most `limit`. Returns when to call again, in clock time."""
        now = self._clock()
        batch: Batch | None = None
        for _ in range(limit):
            connection, due = next(iter(self._due.items()), (None, 0.0))
            if connection is None:
                return now + self._period  # whoever connects meanwhile is due later than that
            if due > now + BEAT_TOGETHER_SECONDS:
                return due
            batch = batch or heartbeat()
            connection.tell("heartbeat", batch)
            self._due[connection] = due + self._period
            self._due.move_to_end(connection)
        return now

    def close(self) -> None:
        """End every stream. Connections leave when their own tasks come to their end."""
        self.closed = True
        for connection in list(self._due):
            connection.close()
