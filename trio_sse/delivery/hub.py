"""Users and topics → connections, and the messages that wait for them. Synchronous, so it needs no lock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Protocol

import trio

from trio_sse.counters import Counters, add_to
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import HEARTBEAT, Connection
from trio_sse.delivery.delays import Delays
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.history import History
from trio_sse.delivery.marks import Mark
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.notices import gap, heartbeat
from trio_sse.delivery.receipts import Receipt, Receipts
from trio_sse.delivery.recorder import Recorder
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.states import State
from trio_sse.delivery.targets import ALL, Followed, Target, each, topic_name
from trio_sse.delivery.traces import Traces
from trio_sse.delivery.wheel import Wheel

MAX_PENDING_BYTES = 8 * 1024 * 1024
"""Bytes received but not yet offered. Beyond it Redis is not read, and buffers the rest."""

Delivery = tuple[Batch, tuple[Connection, ...]]


class TargetListener(Protocol):
    """Hears which targets are followed. Called without a checkpoint, in the middle of a change."""

    def followed(self, target: Target) -> None:
        """It has its first follower."""
        ...

    def unfollowed(self, target: Target) -> None:
        """Its last follower has left."""
        ...


class StreamListener(Protocol):
    """Hears of each stream, when the hub has it, or has it no more."""

    def joined(self, follows: Followed) -> None: ...

    def left(self, follows: Followed) -> None: ...


class _Crowd(dict[Connection, None]):
    """Several followers of a target, and its text, which all but the first of them share."""

    __slots__ = ("target",)

    def __init__(self, target: Target, *connections: Connection) -> None:
        super().__init__(dict.fromkeys(connections))
        self.target = target


_Followers = Connection | _Crowd


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
        snapshot: Snapshot | None = None,
        receipts: Receipts | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.counters = counters
        self.history = history
        self.snapshot = Snapshot(0, 0) if snapshot is None else snapshot  # an empty one is false
        """The newest message of each key."""
        self.target_listeners: list[TargetListener] = []
        self.stream_listeners: list[StreamListener] = []
        """Both are to be filled before the first stream joins."""
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
        self.log_lag = 0.0
        """By how many seconds what was read of the log was behind it when it was read last."""
        self.by_server = 0
        """How many streams an ASGI server writes."""
        self.recorder: Recorder | None = None
        """Remembers what came, for SSE_ADMIN_TOKEN."""
        self.traces: Traces | None = None
        """Follows messages that ask for it, for SSE_TRACES_PER_SECOND."""
        self.receipts = Receipts() if receipts is None else receipts
        """Receipts of messages that were published from this node."""
        self._unflushed: list[Receipt] = []
        self._flushing: list[Receipt] = []
        self._taken: trio.Event | None = None
        self.delays = Delays(counters.delays, clock)
        """How long messages take."""
        self._offered = 0  # in the present flush
        self._wheel = Wheel(heartbeat_seconds, clock)
        self._size = 0
        # Most users have one connection, which stands here without a dict around it.
        self._followers: dict[Target, _Followers] = {}
        self._several = 0  # connections that follow several targets
        self._for_target: dict[Target, Batch] = {}
        self._for_all: Batch | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def connections(self) -> list[Connection]:
        found = chain.from_iterable(map(_each, self._followers.values()))
        return list(dict.fromkeys(found) if self._several else found)

    @property
    def keys(self) -> int:
        """How many users and topics are followed."""
        return len(self._followers)

    @property
    def users(self) -> list[str]:
        """Users with at least one connection."""
        return [target for target in self._followers if topic_name(target) is None]

    @property
    def targets(self) -> list[Target]:
        """Users and topics with at least one connection."""
        return list(self._followers)

    def join(self, connection: Connection) -> None:
        """Register a connection. It gets what is dispatched from now on, once it has begun.

        A closed hub closes the connection, which then ends after its greeting.
        """
        if self.closed:
            connection.close("stopping")
            return
        follows = connection.follows
        if isinstance(follows, str):
            connection.follows = self._add(follows, connection)
        else:
            connection.follows = tuple([self._add(target, connection) for target in follows])
            self._several += 1
        self._wheel.add(connection)
        self._size += 1
        for listener in self.stream_listeners:
            listener.joined(connection.follows)

    def _add(self, target: Target, connection: Connection) -> Target:
        """Register a follower of a target. Returns the text of it that others have."""
        followers = self._followers.get(target)
        if followers is None:
            self._followers[target] = connection
            for listener in self.target_listeners:
                listener.followed(target)
            return target
        if isinstance(followers, _Crowd):
            followers[connection] = None
            return followers.target
        target = next(one for one in each(followers.follows) if one == target)  # its text
        self._followers[target] = _Crowd(target, followers, connection)
        return target

    def leave(self, connection: Connection) -> None:
        """Unregister a connection, close it, and release what it holds. Calling it again is harmless."""
        if self._wheel.remove(connection):
            self._size -= 1
            self._several -= isinstance(connection.follows, tuple)
            for target in each(connection.follows):
                followers = self._followers[target]
                if not isinstance(followers, _Crowd):
                    del self._followers[target]
                    for listener in self.target_listeners:
                        listener.unfollowed(target)
                else:
                    del followers[connection]
                    if len(followers) == 1:
                        (self._followers[target],) = followers
            for stream_listener in self.stream_listeners:
                stream_listener.left(connection.follows)
        connection.leave()

    def count(self, target: Target) -> int:
        """How many streams follow a target."""
        followers = self._followers.get(target)
        return len(followers) if isinstance(followers, _Crowd) else int(followers is not None)

    def remember(self, notification: Notification, entry: EntryId, age: float) -> None:
        """Keep a log entry from before this process, for clients that resume."""
        expires = self._mark(notification).expires
        if expires > self.history.now():
            self.history.append(
                notification.targets,
                notification.frame,
                entry=entry,
                age=age,
                expires=expires,
                elsewhere=notification.elsewhere,
            )
            if self.recorder is not None:
                self.recorder.message(
                    self.history.latest,
                    entry,
                    notification.targets,
                    b"",
                    from_log=True,
                    partition=self.history.sources.partition,
                    age=age,
                )
        self._keep_newest(notification, expires)

    def begin_read(self) -> None:
        """Until `end_read`, `dispatch` does not wake the flusher, and the clock is not looked at again."""
        self._reading = True
        if self.history.begin_read() >= self.delays.due:
            self.delays.wanted = True

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
        if entry is not None:
            self.counters.from_log += 1
        targets, mark = notification.targets, None
        elsewhere = notification.elsewhere
        if notification.key is None and notification.expires_at is None and not elsewhere:
            id, frame = self.history.append(targets, notification.frame, entry=entry)  # noqa: A001
        else:
            mark = self._mark(notification)
            expires = mark.expires
            if expires <= self.history.now():  # nobody gets it
                self.counters.expired += 1
                self._keep_newest(notification, expires)
                self._say_at_flush(receipt, self.history.text(self.history.latest))
                return False
            id, frame = self.history.append(  # noqa: A001
                targets, notification.frame, entry=entry, expires=expires, elsewhere=elsewhere
            )
            self._keep_newest(notification, expires)
        sequence = self.history.latest
        self._say_at_flush(receipt, id)
        if targets is None:
            if not self._size:
                return False
            self._gather_for_all(frame, sequence, receipt, mark)
        elif not self._gather(targets, frame, sequence, receipt, mark):
            return False
        self.pending_bytes += len(frame)
        self._wake()
        return True

    def _gather_for_all(
        self, frame: bytes, sequence: int, receipt: Receipt | None, mark: Mark | None
    ) -> None:
        if self._for_all is None:
            self._for_all = Batch.of(frame, sequence, receipt, mark)
        else:
            self._for_all.add(frame, sequence, receipt, mark)

    def _gather(
        self,
        targets: tuple[Target, ...],
        frame: bytes,
        sequence: int,
        receipt: Receipt | None,
        mark: Mark | None,
    ) -> bool:
        """Store a message for those of `targets` that are here. Returns whether any is."""
        for_target, here = self._for_target, False
        for target in targets:
            if target in self._followers:
                here = True
                if (gathered := for_target.get(target)) is None:
                    for_target[target] = Batch.of(frame, sequence, receipt, mark)
                else:
                    gathered.add(frame, sequence, receipt, mark)
        return here

    def _say_at_flush(self, receipt: Receipt | None, id: str | None) -> None:  # noqa: A002
        """The receipt, if there is one, is complete with the next flush."""
        if receipt is not None:
            receipt.id = id
            self._unflushed.append(receipt)
            self._wake()

    def _mark(self, notification: Notification) -> Mark:
        key, expires_at = notification.key, notification.expires_at
        expires = math.inf if expires_at is None else self.history.now() + expires_at - time.time()
        slot = None if key is None else (notification.targets, key)
        return Mark(slot, expires, elsewhere=notification.elsewhere)

    def _keep_newest(self, notification: Notification, expires: float) -> None:
        """Keep it for snapshots if it is the state of a key. One that came too late ends the state before it
        all the same."""
        if notification.key is not None:
            is_over = notification.forgets or expires <= self.history.now()
            part = None if is_over else (self.history.latest, notification.bare_frame(), expires)
            self.snapshot.put(notification.targets, notification.key, part, notification.elsewhere)

    def _wake(self) -> None:
        if not self._reading:
            self.pending.set()

    def offers(self, most: int) -> int:
        """How many offers a flush would make now, counted up to `most` and a few more."""
        if self._for_all is not None:
            return self._size
        if len(self._for_target) > most:
            return len(self._for_target)
        count = 0
        for target in self._for_target:
            if (followers := self._followers.get(target)) is not None:
                count += len(followers) if isinstance(followers, _Crowd) else 1
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
        for_target, for_all = self._for_target, self._for_all
        self._for_target, self._for_all = {}, None
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
        if self.delays.waiting is not None:
            self.delays.take()
        deliveries: list[Delivery] = []
        if for_all is None:
            for target, batch in for_target.items():
                if followers := self._followers.get(target):
                    deliveries.append((batch, _each(followers)))
            if self._several and _reach_some_twice(deliveries):
                return self._merged(for_target, None)
        elif self._several:
            return self._merged(for_target, for_all)
        else:
            for target, followers in self._followers.items():
                own = for_target.get(target)
                batch = Batch.merged(own, for_all) if own else for_all
                deliveries.append((batch, _each(followers)))
        return deliveries

    def _merged(self, for_target: dict[Target, Batch], for_all: Batch | None) -> list[Delivery]:
        """Deliveries where connections may be reached in several ways: each gets one batch. Those that are
        reached in the same ways share it."""
        # Takes time for what is reached, however many targets a connection follows.
        ways_to: dict[Connection, list[Target]] = {}
        if for_all is not None:
            ways_to = {connection: [] for connection in self.connections}
        for target in for_target:
            for connection in _each(self._followers.get(target, ())):
                if (ways := ways_to.get(connection)) is None:
                    ways_to[connection] = [target]
                else:
                    ways.append(target)
        reached: dict[tuple[Target, ...], list[Connection]] = {}
        for connection, ways in ways_to.items():
            reached.setdefault(tuple(ways), []).append(connection)
        deliveries = []
        for shared, connections in reached.items():
            batches = [for_target[one] for one in shared]
            if for_all is not None:
                batches.append(for_all)
            batch = batches[0] if len(batches) == 1 else Batch.merged(*batches)
            deliveries.append((batch, tuple(connections)))
        return deliveries

    def offered(self, published: int, direct: int, sent: int) -> None:
        """Offers were made of so many messages, each counted once for each connection. So many were taken at
        once, in so many bytes. To be called without a checkpoint after the offers."""
        balance = self.counters.balance
        balance.published += published
        balance.direct += direct
        self.counters.bytes_sent += sent
        self._offered += published

    def told(self, batch: Batch, taken: int) -> None:
        """So many connections have taken this batch at once, and the gaps in it."""
        for mark in (batch.marks or {}).values():
            if mark.notice is not None:
                add_to(self.counters.gaps, mark.notice, taken)

    def flushed(self) -> None:
        """All that was taken has been offered."""
        self.flushing = False
        if offered := self._offered:
            self._offered = 0
            self.counters.flushes[offered.bit_length()] += 1
            self.counters.flushed += offered
        if self.delays.flying is not None:
            self.delays.end()
        for receipt in self._flushing:
            receipt.done.set()
            if receipt.trace is not None:
                receipt.trace.was_offered(receipt)
            if receipt.reply_to is not None and self.receipts.answer is not None and receipt.streams:
                self.receipts.answer(receipt)  # else all have left, or get it from another partition
        self._flushing.clear()

    def announce_gap_to(self, reason: str, targets: Iterable[Target]) -> None:
        """Send those who follow one of these targets, or all of them, a gap as `announce_gap` does. Clients
        that resume later do not find it."""
        targets = tuple(targets)
        if ALL in targets:
            self.announce_gap(reason)
            return
        if self.recorder is not None:
            self.recorder.trouble("gap", reason)
        _, frame = self.history.append((), lambda position: gap(reason, None, id=position), own=reason)
        if self._gather(targets, frame, self.history.latest, None, Mark(notice=reason)):
            self.pending_bytes += len(frame)
            self.pending.set()
            notice = Batch.notice(frame)
            for connection in dict.fromkeys(chain.from_iterable(map(self.followers, targets))):
                if connection.state is not State.LIVE and not connection.closed:
                    add_to(self.counters.gaps, reason)
                    connection.tell(reason, notice)

    def followers(self, target: Target) -> tuple[Connection, ...]:
        """The connections that follow a target."""
        return _each(self._followers.get(target, ()))

    def announce_gap(self, reason: str) -> None:
        """Send every connection a gap, behind the messages that were dispatched before: messages may be
        missing, and how many is not known. Clients that resume later find it in its place."""
        if self.recorder is not None:
            self.recorder.trouble("gap", reason)
        _, frame = self.history.append(None, lambda position: gap(reason, None, id=position), own=reason)
        if self._size:
            self._gather_for_all(frame, self.history.latest, None, Mark(notice=reason))
            self.pending_bytes += len(frame)
            self.pending.set()

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
            connection.close("stopping")


def _reach_some_twice(deliveries: list[Delivery]) -> bool:
    offers = sum([len(connections) for _, connections in deliveries])
    return len(deliveries) > 1 and offers > len(set(chain.from_iterable([who for _, who in deliveries])))


def _each(followers: _Followers | tuple[()]) -> tuple[Connection, ...]:
    return (followers,) if isinstance(followers, Connection) else tuple(followers)
