"""Users → connections, and the messages that wait for them. Synchronous, so it needs no lock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import trio

from trio_sse.counters import Counters
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import HEARTBEAT, Connection
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.notices import gap, heartbeat
from trio_sse.delivery.receipts import Receipt, Receipts
from trio_sse.delivery.wheel import Wheel

MAX_PENDING_BYTES = 8 * 1024 * 1024
"""Bytes received but not yet offered. Beyond it Redis is not read, and buffers the rest."""

Delivery = tuple[Batch, tuple[Connection, ...]]


class Hub:
    """All connections of this process, and the messages that have not left yet.

    `dispatch` only stores a message; the flusher gets what has gathered from `take` and offers it. Every
    change is made without a checkpoint, so no task sees half of one.
    """

    def __init__(
        self,
        counters: Counters,
        history: History,
        *,
        heartbeat_seconds: float,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.counters = counters
        self.history = history
        self.closed = False
        self.draining = False
        """Whether the service is about to stop, and takes no new streams."""
        self.pending = trio.Event()
        """Set while messages wait for the flusher."""
        self.pending_bytes = 0
        """Bytes that have not been taken. Each message counts once, however many connections it goes to."""
        self.flushing = False
        """Whether something was taken, and has not been offered to all yet."""
        self._reading = False
        self.by_server = 0
        """How many streams an ASGI server writes."""
        self.receipts = Receipts()
        """Receipts of messages that were published from this node."""
        self._unflushed: list[Receipt] = []
        self._flushing: list[Receipt] = []
        self._taken: trio.Event | None = None
        self._wheel = Wheel(heartbeat_seconds, clock)
        self._size = 0
        # Most users have one connection, which stands here without a dict around it.
        self._users: dict[str, Connection | dict[Connection, None]] = {}
        self._for_user: dict[str, Batch] = {}
        self._for_all: Batch | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def connections(self) -> list[Connection]:
        return list(chain.from_iterable(map(_each, self._users.values())))

    @property
    def users(self) -> list[str]:
        """Users with at least one connection."""
        return list(self._users)

    def join(self, connection: Connection) -> None:
        """Register a connection. It gets what is dispatched from now on, once it has begun.

        A closed hub closes the connection, which then ends after its greeting.
        """
        self.counters.streams += 1
        if self.closed:
            connection.close()
            return
        users, user = self._users, connection.user_id
        mine = users.setdefault(user, connection)
        if isinstance(mine, dict):
            mine[connection] = None
        elif mine is not connection:
            users[user] = {mine: None, connection: None}
        self._wheel.add(connection)
        self._size += 1

    def leave(self, connection: Connection) -> None:
        """Unregister a connection, close it, and release what it holds. Calling it again is harmless."""
        if self._wheel.remove(connection):
            self._size -= 1
            users, user = self._users, connection.user_id
            mine = users[user]
            if not isinstance(mine, dict):
                del users[user]
            else:
                del mine[connection]
                if len(mine) == 1:
                    (users[user],) = mine
        connection.leave()

    def remember(self, notification: Notification, entry: EntryId, age: float) -> None:
        """Keep a log entry from before this process, for clients that resume."""
        self.history.append(notification.users, notification.frame, entry=entry, age=age)

    def begin_read(self) -> None:
        """Until `end_read`, `dispatch` does not wake the flusher, and the clock is not looked at again."""
        self._reading = True
        self.history.begin_read()

    def end_read(self) -> None:
        """What was dispatched since `begin_read` is now to be flushed: see `flusher.settle`."""
        self._reading = False
        self.history.end_read()

    def dispatch(
        self, notification: Notification, entry: EntryId | None = None, receipt: Receipt | None = None
    ) -> bool:
        """Give a message its id, keep it for clients that resume, and store it for the next flush.

        `entry` is its id if it is an entry of the log. `receipt` counts where it goes. Returns whether any
        connection here is to get it.
        """
        self.counters.received += 1
        users = notification.users
        id, frame = self.history.append(users, notification.frame, entry=entry)  # noqa: A001
        sequence = self.history.latest
        if receipt is not None:
            receipt.id = id
            self._unflushed.append(receipt)
            self._wake()
        if users is None:
            if not self._size:
                return False
            if self._for_all is None:
                self._for_all = Batch.of(frame, sequence, receipt)
            else:
                self._for_all.add(frame, sequence, receipt)
        elif not self._gather(users, frame, sequence, receipt):
            return False
        self.pending_bytes += len(frame)
        self._wake()
        return True

    def _gather(self, users: tuple[str, ...], frame: bytes, sequence: int, receipt: Receipt | None) -> bool:
        """Store a message for those of `users` that are here. Returns whether any is."""
        for_user, here = self._for_user, False
        for user in users:
            if user in self._users:
                here = True
                if (gathered := for_user.get(user)) is None:
                    for_user[user] = Batch.of(frame, sequence, receipt)
                else:
                    gathered.add(frame, sequence, receipt)
        return here

    def _wake(self) -> None:
        if not self._reading:
            self.pending.set()

    def offers(self, most: int) -> int:
        """How many offers a flush would make now, counted up to `most` and a few more."""
        if self._for_all is not None:
            return self._size
        if len(self._for_user) > most:
            return len(self._for_user)
        count = 0
        for user in self._for_user:
            if (mine := self._users.get(user)) is not None:
                count += len(mine) if isinstance(mine, dict) else 1
        return count

    async def wait_taken(self) -> None:
        """Wait until the flusher has taken what is pending."""
        if self.pending.is_set():
            if self._taken is None:
                self._taken = trio.Event()
            await self._taken.wait()

    def take(self) -> list[Delivery]:
        """All that has gathered, with a snapshot of the connections it is for. Until `flushed`, nothing newer
        may be offered by anybody else."""
        for_user, for_all = self._for_user, self._for_all
        self._for_user, self._for_all = {}, None
        if self._unflushed:
            self._flushing += self._unflushed
            self._unflushed = []
        if self.pending.is_set():  # an event costs more than an offer
            self.pending = trio.Event()
        if self._taken is not None:
            self._taken.set()
            self._taken = None
        self.pending_bytes = 0
        self.flushing = True
        deliveries = []
        if for_all is None:
            for user, batch in for_user.items():
                if connections := self._users.get(user):
                    deliveries.append((batch, _each(connections)))
        else:
            for user, connections in self._users.items():
                own = for_user.get(user)
                batch = Batch.merged(own, for_all) if own else for_all
                deliveries.append((batch, _each(connections)))
        return deliveries

    def flushed(self) -> None:
        """All that was taken has been offered."""
        self.flushing = False
        for receipt in self._flushing:
            receipt.done.set()
        self._flushing.clear()

    def announce_gap(self, reason: str) -> None:
        """Send every connection a gap: messages may be missing, and how many is not known. Clients that
        resume later find it in its place."""
        _, frame = self.history.append(None, lambda position: gap(reason, None, id=position), own=True)
        batch = Batch.notice(frame)
        for connection in self.connections:
            connection.tell_marked(reason, batch)

    def beat(self, most: int = 500) -> float:
        """Send the heartbeats that are due, about `most` at most. Returns when to call again, in clock
        time."""
        self.history.evict()
        if due := self._wheel.take_due(most):
            batch = Batch.notice(heartbeat())
            for connection in due:
                connection.tell(HEARTBEAT, batch)
        return self._wheel.next_time()

    def close(self) -> None:
        """End every stream. Connections leave when all they are owed was sent."""
        self.closed = self.draining = True
        for connection in self.connections:
            connection.close()


def _each(mine: Connection | dict[Connection, None]) -> tuple[Connection, ...]:
    return tuple(mine) if isinstance(mine, dict) else (mine,)
