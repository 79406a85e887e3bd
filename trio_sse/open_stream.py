"""One stream, from being let in to leaving: what it takes from the service and gives back."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from trio_sse.access.gate import overloaded_words
from trio_sse.access.handshake import Accepted
from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import HEARTBEAT, Connection
from trio_sse.delivery.notices import farewell

if TYPE_CHECKING:
    from trio_sse.service import Service

AUTH_EXPIRED_SECONDS = 2.0
"""Over how long clients whose token expired come back with a new one."""


class OpenStream:
    """A scope: a connection in the hub that begins by itself, or one that ends at once with last words."""

    __slots__ = ("_accepted", "_connection", "_counted", "_service")

    def __init__(self, service: Service, accepted: Accepted) -> None:
        self._service = service
        self._accepted = accepted
        self._counted = False

    def __enter__(self) -> Connection:
        service, accepted = self._service, self._accepted
        settings, limits = service.settings, service.gate.limits
        connection = self._connection = Connection(
            accepted.user_id,
            settings.buffer,
            service.counters,
            service.history,
            service.replays,
            disconnect=settings.slow_client == "disconnect",
        )
        last_words = accepted.last_words
        if limits.any and (overloaded := limits.excess(accepted.user_id, accepted.address)):
            last_words = last_words or overloaded_words(overloaded)
        if last_words:
            service.counters.overloaded += 1
            connection.end(last_words)
        elif service.hub.draining:
            connection.end(farewell("draining", 2 * settings.drain_seconds))
        else:
            if limits.any:
                limits.begin(accepted.user_id, accepted.address)
                self._counted = True
            if accepted.last_event_id is not None:
                service.counters.resumed += 1
            service.hub.join(connection)
            service.replays.begin(connection, accepted.last_event_id)
            if not connection.begun:  # nobody knows for how long
                connection.tell(HEARTBEAT, Batch.unnumbered(sse.COMMENT))
            self._set_end(connection)
        return connection

    def __exit__(self, *_: object) -> None:
        self._service.hub.leave(self._connection)
        if self._counted:
            self._service.gate.limits.end(self._accepted.user_id, self._accepted.address)

    def _set_end(self, connection: Connection) -> None:
        now = trio.current_time()
        if longest := self._service.settings.max_stream_seconds:
            life = longest * random.uniform(0.8, 1)  # noqa: S311  jitter, not a secret
            self._service.lifetimes.add(connection, now + life)
        if (seconds := self._accepted.seconds) is not None:
            self._service.lifetimes.add(connection, now + seconds, _auth_expired)


def _auth_expired() -> bytes:
    return farewell("auth_expired", AUTH_EXPIRED_SECONDS)
