"""The parts of the service, its tasks, and the scope of a stream. Imports no web framework."""

from __future__ import annotations

import random
import secrets
import time

import trio

from trio_sse.access.admission import Accepted, Admission, overloaded_words
from trio_sse.access.publishers import Publishers
from trio_sse.admin.administration import REVOKED_RETURN_SECONDS, Administration
from trio_sse.broker.census import Bounds, Census
from trio_sse.broker.positions import Positions
from trio_sse.broker.presence import Presence
from trio_sse.broker.publisher import Publisher
from trio_sse.broker.replies import Replies
from trio_sse.broker.source import Source
from trio_sse.counters import Counters, add_to
from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import HEARTBEAT, Common, Connection
from trio_sse.delivery.flusher import flush_forever
from trio_sse.delivery.heartbeats import beat_forever
from trio_sse.delivery.history import History
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.lane import Bounds as LaneBounds
from trio_sse.delivery.lanes import Lanes
from trio_sse.delivery.lifetimes import Lifetimes
from trio_sse.delivery.logged_connection import Logged, LoggedConnection
from trio_sse.delivery.notices import farewell
from trio_sse.delivery.partitions import Partitioning
from trio_sse.delivery.recorder import Recorder
from trio_sse.delivery.resume import Resumer
from trio_sse.delivery.snapshot import Snapshot
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import followed
from trio_sse.delivery.traces import Traces
from trio_sse.descriptors import descriptors, few_left
from trio_sse.metrics.gathering import Metrics
from trio_sse.metrics.report import Totals, totals_of
from trio_sse.rebalancing import Rebalancing
from trio_sse.settings import Settings
from trio_sse.siblings import Counts, Siblings
from trio_sse.stopping import Stopping
from trio_sse.tracing.extra import Running, exporter
from trio_sse.turning import STUCK_SECONDS, Turning

AUTH_EXPIRED_SECONDS = 2.0
"""Seconds over which clients with an expired token spread their reconnects."""


class Service:
    """The service of one process. Raises SettingsError if a key file contains no key, or if a setting has a
    topic that is none."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.admission = Admission(settings)
        self.publishers = Publishers(settings)
        self._process = process = secrets.token_hex(6)
        self.history = History(
            self._process,
            messages=settings.history_messages,
            seconds=settings.history_seconds,
            max_bytes=settings.history_bytes,
            clock=trio.current_time,
            has_log=settings.redis_stream is not None and not settings.partitioned,
        )
        snapshot = Snapshot(settings.snapshot_keys, settings.snapshot_bytes)
        heartbeat_seconds = settings.heartbeat_seconds
        self.hub = Hub(self.counters, self.history, heartbeat_seconds=heartbeat_seconds, snapshot=snapshot)
        if settings.admin_token is not None:
            self.hub.recorder = Recorder(settings.explain_records, settings.explain_bytes)
            self.admission.refused = self.hub.recorder.refused
        self._exporter: Running | None = None
        if settings.traces_per_second:
            self.hub.traces = Traces(settings.traces_per_second, self.counters)
            self._exporter = exporter(settings, self.hub.traces, self.counters, process)
        source = Source(settings, self.hub)
        if source.interest is not None:
            self.hub.target_listeners.append(source.interest)
        self.resumer = Resumer(
            self.history,
            heartbeat_seconds=heartbeat_seconds,
            snapshot=snapshot,
            interest=source.interest,
        )
        self._common = Common(
            self.counters,
            self.history,
            self.resumer,
            settings.buffer,
            disconnect=settings.slow_client == "disconnect",
        )
        self.lanes = self._lanes(source.partitioning)
        if self.lanes is not None:
            self.lanes.recorder, self.lanes.traces = self.hub.recorder, self.hub.traces
        self.lifetimes = Lifetimes()
        self.stopping = Stopping(self.hub, settings.drain_seconds)
        self.subscriber = source.subscriber(self.resumer, self.lanes)
        self.publisher = Publisher(settings, self.subscriber, source)
        self.positions: Positions | None = None
        if source.partitioning is not None:
            self.positions = Positions(settings, source.partitioning, source.cluster)
        self.census = self._census()
        # From one channel for all, each worker gets each message.
        shared = not (settings.by_key or settings.partitioned)
        self.siblings = Siblings(self._counts, ("published", "rejected") if shared else ())
        same = ("messages_received:", "bad_messages:") if shared else ()
        self.metrics = Metrics(self._process, self._totals, self._gauges, self.siblings, same)
        """What all workers count, for Prometheus."""
        self.turning = Turning(self.counters.loop_lag)
        self._canary = source.canary
        self.presence: Presence | None = None
        if settings.presence:
            self.presence = Presence(settings, self.hub, source.cluster, self.publisher)
        self.administration: Administration | None = None
        if self.hub.recorder is not None:
            self.administration = Administration(
                settings,
                process,
                source.cluster,
                self.hub,
                self.hub.recorder,
                self.admission.revocations,
                self.not_ready,
            )
        self._replies: Replies | None = None
        if settings.reply_lists is not None:
            self._replies = Replies(settings, settings.reply_lists, self._process, source.cluster, self.hub)

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
                await nursery.start(self.turning.run)
                nursery.start_soon(self.admission.run)
                await nursery.start(self.siblings.run)
                await nursery.start(self.subscriber.run)
                if self.census is not None:
                    await nursery.start(self.census.run)
                    nursery.start_soon(Rebalancing(self.hub, self.settings.rebalance, self.census).run)
                if self._canary is not None:
                    await nursery.start(self._canary.run, self.subscriber)
                for beside in (
                    self.positions,
                    self.presence,
                    self._replies,
                    self.administration,
                    self._exporter,
                ):
                    if beside is not None:
                        await nursery.start(beside.run)
                task_status.started()
        finally:
            self.hub.close()
            self.metrics.end()

    def open(self, accepted: Accepted) -> Connection:
        """Open an admitted stream, which takes a place in the limits and in the hub until `release`. If it
        cannot be opened, nothing is taken.

        Returns a connection that is in the hub and begins by itself, or one that ends at once after a last
        notice.
        """
        connection = self._connection(accepted)
        recorded = self.hub.recorder is not None or self.hub.traces is not None
        if recorded and not accepted.last_words:
            connection.record = self._record(connection, accepted)
            if self.hub.recorder is not None:
                self.hub.recorder.opened(connection.record)
        try:
            self._take_place(connection, accepted)
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Connection, why: str = "") -> None:
        """Take a stream out of the hub and of the limits: it has ended. Calling it again is harmless.
        `why` it ended, unless the service ended it; "": the client left."""
        connection.ends(why)
        if isinstance(connection, Logged):
            connection.say()
        self.hub.leave(connection)
        self.admission.limits.end(connection)
        if connection.record is not None:
            if self.hub.recorder is not None:
                self.hub.recorder.left(connection.record)
            else:
                connection.record.leaves()

    def _record(self, connection: Connection, accepted: Accepted) -> StreamRecord:
        return StreamRecord(
            f"{random.getrandbits(64):016x}",
            connection,
            connection.follows,
            accepted.address,
            resumed=accepted.start.last_event_id,
            by_token=accepted.seconds is not None,
            jti=accepted.jti,
            issued_at=accepted.issued_at,
        )

    def not_ready(self) -> str | None:
        """Why the service should get no clients now, or None. For the log only: it contains the address of
        Redis."""
        return None if (reason := self._not_ready()) is None else reason[1]

    @property
    def not_ready_code(self) -> str:
        """The code of `not_ready()`, which anybody may read."""
        return "" if (reason := self._not_ready()) is None else reason[0]

    async def stuck(self) -> tuple[str, str] | None:
        """A code and a reason, both fit for public answers, if the event loop of a worker does not turn."""
        if (late := self.turning.late) >= STUCK_SECONDS:
            return "loop_stuck", f"the event loop has not turned for {late:.0f} s"
        if (silence := await self.siblings.silence()) >= STUCK_SECONDS:
            return "worker_stuck", f"a worker has not answered for {silence:.0f} s"
        return None

    def _not_ready(self) -> tuple[str, str] | None:
        if self.hub.draining:
            return "stopping", "stopping"
        if problem := self.subscriber.problem:
            return self.subscriber.problem_code, problem
        if self._canary is not None and (problem := self._canary.problem):
            return "canary_lost", problem
        if (files := descriptors()).short or few_left():
            return "no_descriptors", f"{files.open} of {files.limit} files are open"
        return None

    def _connection(self, accepted: Accepted) -> Connection:
        follows = followed(accepted.user_id, accepted.topics)
        if self.lanes is not None:
            return self.lanes.open(follows, accepted.address if self.settings.log_streams else None)
        if self.settings.log_streams:
            return LoggedConnection(follows, self._common, accepted.address)
        return Connection(follows, self._common)

    def _lanes(self, partitioning: Partitioning | None) -> Lanes | None:
        """The partitions of the log that are read here, if it has any."""
        settings = self.settings
        if partitioning is None:
            return None
        bounds = LaneBounds(
            settings.history_messages,
            settings.history_seconds,
            settings.history_bytes,
            settings.snapshot_keys,
            settings.snapshot_bytes,
            settings.heartbeat_seconds,
        )
        return Lanes(
            partitioning,
            bounds=bounds,
            counters=self.counters,
            receipts=self.hub.receipts,
            common=self._common,
            wall_clock=time.time,
        )

    def _census(self) -> Census | None:
        """The counts of all processes, if anything is decided by them."""
        settings, limits, hub = self.settings, self.admission.limits, self.hub

        def own() -> int | None:
            return None if hub.draining else len(hub)

        if not (settings.limits_shared and limits.any):
            return Census(settings, self._process, own) if settings.rebalance else None
        bounds = Bounds(
            settings.max_connections,
            settings.max_connections_per_user,
            settings.max_connections_per_address,
            settings.connection_rate_per_address,
        )
        census = Census(settings, self._process, own, bounds, limits)
        self.admission.ask = census.ask
        return census

    def _counts(self) -> Counts:
        return Counts(len(self.hub), frozenset(self.hub.users), self.counters.snapshot())

    def _totals(self) -> Totals:
        return totals_of(self.counters, self.admission.refusals)

    def _gauges(self) -> Totals:
        files = descriptors()
        lanes = () if self.lanes is None else self.lanes.lanes.values()
        hubs = [self.hub, *(lane.hub for lane in lanes)]
        return {
            "streams": len(self.hub),
            "keys": self.hub.keys,
            "ready": int(self.not_ready() is None),
            "redis_up": int(self.subscriber.problem is None),
            "log_lag_seconds": max(hub.log_lag for hub in hubs),
            "pending_bytes": sum(hub.pending_bytes for hub in hubs),
            "open_files": files.open,
            "max_open_files": files.limit,
        }

    def _take_place(self, connection: Connection, accepted: Accepted) -> None:
        limits, hub = self.admission.limits, self.hub
        last_words = accepted.last_words
        place = accepted.reservation
        reserved = place is not None and limits.take_up(place, connection)
        if not reserved and limits.any and (why := limits.excess(accepted.user_id, accepted.address)):
            last_words = last_words or overloaded_words(why)
        if last_words:
            self.counters.overloaded += 1
            add_to(self.admission.refusals, "overloaded")
            connection.end(last_words)
            return
        revocations = self.admission.revocations
        if (
            revocations is not None
            and accepted.seconds is not None
            and revocations.covers(accepted.user_id, accepted.jti, accepted.issued_at)
        ):  # since it was admitted
            limits.end(connection)
            connection.end(farewell("auth_revoked", REVOKED_RETURN_SECONDS))
            return
        if hub.draining:
            limits.end(connection)
            add_to(self.admission.refusals, "draining")
            connection.end(farewell("draining", 2 * self.settings.drain_seconds))
            return
        if limits.any and not reserved:
            limits.begin(connection, accepted.user_id, accepted.address)
        if accepted.start.last_event_id is not None:
            self.counters.resumed += 1
        self.counters.streams += 1
        hub.join(connection)
        (self.lanes or self.resumer).begin(connection, accepted.start)
        if not connection.begun:  # it may wait for long
            connection.tell(HEARTBEAT, Batch.notice(sse.COMMENT))
        self._set_end(connection, accepted.seconds)

    def _set_end(self, connection: Connection, seconds: float | None) -> None:
        longest = self.settings.max_stream_seconds
        if longest:
            life = longest * random.uniform(0.8, 1)  # noqa: S311  jitter, not a secret
            self.lifetimes.add(connection, trio.current_time() + life, why="max_stream_seconds")
        if seconds is not None:
            self.lifetimes.add(connection, trio.current_time() + seconds, _auth_expired)


def _auth_expired() -> bytes:
    return farewell("auth_expired", AUTH_EXPIRED_SECONDS)
