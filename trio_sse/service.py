"""The parts of the service, its tasks, and the scope of a stream. Imports no web framework."""

from __future__ import annotations

import random
import secrets

import trio

from trio_sse.access.admission import Accepted, Admission, overloaded_words
from trio_sse.broker.publisher import Publisher
from trio_sse.broker.subscriber import Subscriber
from trio_sse.counters import Counters
from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import HEARTBEAT, Connection
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.heartbeats import beat_forever
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.lifetimes import Lifetimes
from trio_sse.delivery.notices import farewell
from trio_sse.delivery.resume import Resumer
from trio_sse.settings import Settings
from trio_sse.stopping import Stopping

REPLAY_TURNS = 16
"""Pages of replays that are written before other tasks run."""

AUTH_EXPIRED_SECONDS = 2.0
"""Seconds over which clients with an expired token spread their reconnects."""


class Service:
    """The service of one process. Raises SettingsError if a key file contains no key."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.admission = Admission(settings)
        self.history = History(
            secrets.token_hex(6),
            messages=settings.history_messages,
            seconds=settings.history_seconds,
            max_bytes=settings.history_bytes,
            clock=trio.current_time,
            has_log=settings.redis_stream is not None,
        )
        self.hub = Hub(self.counters, self.history, heartbeat_seconds=settings.heartbeat_seconds)
        self.resumer = Resumer(self.history, heartbeat_seconds=settings.heartbeat_seconds)
        self.lifetimes = Lifetimes()
        self.stopping = Stopping(self.hub, settings.drain_seconds)
        self.replay_turns = trio.CapacityLimiter(REPLAY_TURNS)
        self.subscriber = Subscriber(settings, self.hub, self.resumer)
        self.publisher = Publisher(settings, self.hub, self.subscriber)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all tasks of the service until cancelled. Counts as started when all tasks have started.

        An error in one task cancels the others and is raised. In every case the hub is closed at the end, so
        that every stream ends: no client stays on a stream that gets no messages.
        """
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(flush_forever, self.hub)
                await nursery.start(beat_forever, self.hub)
                await nursery.start(self.lifetimes.run)
                nursery.start_soon(self.admission.run)
                await nursery.start(self.subscriber.run)
                task_status.started()
        finally:
            self.hub.close()

    def open(self, accepted: Accepted) -> OpenStream:
        """The scope of an admitted stream."""
        return OpenStream(self, accepted)

    def not_ready(self) -> str | None:
        """Why the service should get no clients now, or None. For the log only: it contains the address of
        Redis."""
        return "stopping" if self.hub.draining else self.subscriber.problem

    @property
    def not_ready_code(self) -> str:
        """The code of `not_ready()`, which anybody may read."""
        return "stopping" if self.hub.draining else self.subscriber.problem_code


class OpenStream:
    """What a stream takes from the service. It is given back when the scope ends, or if it cannot be entered.

    Entering returns a connection that is in the hub and begins by itself, or one that ends at once after a
    last notice.
    """

    __slots__ = ("_accepted", "_connection", "_counted", "_service")

    def __init__(self, service: Service, accepted: Accepted) -> None:
        self._service = service
        self._accepted = accepted
        self._counted = False

    def __enter__(self) -> Connection:
        service, settings = self._service, self._service.settings
        self._connection = Connection(
            self._accepted.user_id,
            settings.buffer,
            service.counters,
            service.history,
            service.resumer,
            disconnect=settings.slow_client == "disconnect",
        )
        try:
            self._take()
        except BaseException:
            self._give_back()
            raise
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def _give_back(self) -> None:
        self._service.hub.leave(self._connection)
        if self._counted:
            self._counted = False
            self._service.admission.limits.end(self._accepted.user_id, self._accepted.address)

    def _take(self) -> None:
        service, accepted, connection = self._service, self._accepted, self._connection
        limits = service.admission.limits
        last_words = accepted.last_words
        if limits.any and (overloaded := limits.excess(accepted.user_id, accepted.address)):
            last_words = last_words or overloaded_words(overloaded)
        if last_words:
            service.counters.overloaded += 1
            connection.end(last_words)
            return
        if service.hub.draining:
            connection.end(farewell("draining", 2 * service.settings.drain_seconds))
            return
        if limits.any:
            limits.begin(accepted.user_id, accepted.address)
            self._counted = True
        if accepted.last_event_id is not None:
            service.counters.resumed += 1
        service.hub.join(connection)
        service.resumer.begin(connection, accepted.last_event_id)
        if not connection.begun:  # it may wait for long
            connection.tell(HEARTBEAT, Batch.notice(sse.COMMENT))
        self._set_end(connection)

    def _set_end(self, connection: Connection) -> None:
        now = trio.current_time()
        if longest := self._service.settings.max_stream_seconds:
            life = longest * random.uniform(0.8, 1)  # noqa: S311  jitter, not a secret
            self._service.lifetimes.add(connection, now + life)
        if (seconds := self._accepted.seconds) is not None:
            self._service.lifetimes.add(connection, now + seconds, _auth_expired)


def _auth_expired() -> bytes:
    return farewell("auth_expired", AUTH_EXPIRED_SECONDS)
