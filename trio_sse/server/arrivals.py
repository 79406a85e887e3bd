"""Connections from accept(2) until their first request was read, with TLS and without."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial

import trio
from hypercorn.config import Config

from trio_sse.access.problem import Refused
from trio_sse.server.fleet import Fleet, Stream
from trio_sse.server.http1 import plain_request, whole_response
from trio_sse.server.poller import BUDGET_SECONDS, Poller
from trio_sse.server.requests import is_for_a_stream, opening_of, peer_of
from trio_sse.server.secure import READ as READ_SECURE
from trio_sse.server.secure import SecureStream
from trio_sse.server.tls import Tls
from trio_sse.service import Service
from trio_sse.sockets import receive

_READ = 65536

MAX_UNASKED = 65536
"""Encrypted bytes from a client that has sent no data yet: its handshake, and its certificates if any."""

HandOver = Callable[[socket.socket, Tls | None, bytes, float], None]


class Silent:
    """Connections that have sent nothing yet, in the order of their deadlines: the time is one for all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Arrival, None] = {}
        self._first = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def deadline(self) -> float:
        """The deadline of one that comes now."""
        return trio.current_time() + self._seconds

    def add(self, arrival: Arrival) -> None:
        """Add one that came just now. Its deadline is set."""
        self._waiting[arrival] = None
        self._first.set()

    def remove(self, arrival: Arrival) -> None:
        """Harmless if it is not there."""
        self._waiting.pop(arrival, None)

    def cut_all(self) -> None:
        for arrival in list(self._waiting):
            arrival.cut()

    async def expire(self) -> None:
        """Tell connections of their deadlines, until cancelled."""
        while True:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                self._first = trio.Event()
                await self._first.wait()
            elif oldest.deadline > trio.current_time():
                await trio.sleep_until(oldest.deadline)
            else:
                self._tell_overdue()
                await trio.lowlevel.checkpoint()

    def _tell_overdue(self) -> None:
        """Tell those whose deadline is over. Thousands may be: for BUDGET_SECONDS at most."""
        until, now = time.perf_counter() + BUDGET_SECONDS, trio.current_time()
        while (oldest := next(iter(self._waiting), None)) is not None and oldest.deadline <= now:
            oldest.overdue()
            if time.perf_counter() >= until:
                return


class Arrival:
    """A connection that has sent nothing yet."""

    __slots__ = ("_arrivals", "deadline", "fd", "silent")

    tls: Tls | None = None

    def __init__(self, fd: int, silent: Silent, arrivals: Arrivals) -> None:
        self.fd = fd
        self.silent = silent
        """Where it waits until it has sent something."""
        self.deadline = silent.deadline()
        self._arrivals = arrivals

    def readable(self) -> None:
        self._arrivals.read(self)

    def overdue(self) -> None:
        self._arrivals.overdue(self)

    def cut(self) -> None:
        self._arrivals.cut(self)

    def receive(self) -> bytes | None:
        """What the client has sent. None: nothing yet. b"": it left, or must leave."""
        return receive(self.fd, _READ)

    def answer(self, response: bytes) -> None:
        """Send the whole response. The socket is empty: it takes all of it."""
        with contextlib.suppress(OSError):
            os.write(self.fd, response)


class SecureArrival(Arrival):
    """A connection whose handshake is under way, or that has sent nothing since."""

    __slots__ = ("_received", "_shaken", "tls")

    def __init__(self, fd: int, silent: Silent, arrivals: Arrivals, tls: Tls) -> None:
        super().__init__(fd, silent, arrivals)
        self.tls: Tls = tls
        self._received = 0
        self._shaken = False

    def receive(self) -> bytes | None:
        received = receive(self.fd, READ_SECURE)
        if not received:
            return received
        self._received += len(received)
        tls = self.tls
        tls.feed(received)
        said = None
        try:
            if not self._shaken and tls.shake():
                self._shaken = True
                self._arrivals.shaken(self)
            if self._shaken:
                said = tls.read()
        except ssl.SSLError:
            said = b""
        if said is None and self._received > MAX_UNASKED:
            said = b""
        # What must be written otherwise leaves with the answer: session tickets are no write of their own.
        return said or (said if self._wrote(tls.take_outgoing()) else b"")

    def answer(self, response: bytes) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._wrote(self.tls.seal(response) + self.tls.seal_end())

    def _wrote(self, data: bytes) -> bool:
        """Write, and return whether all of it was written. Only certificates of tens of kilobytes find no
        room."""
        try:
            return os.write(self.fd, data) == len(data)
        except OSError:
            return False


class Arrivals:
    """Reads the first bytes of each connection. A whole request for a stream, as browsers write it, is
    answered in the same turn and goes to the fleet. `hand_over` gets any other connection, with its TLS, the
    bytes that were read, and the deadline of its head.

    A connection that sends nothing for `keep_alive_timeout` seconds is closed. With TLS these begin with the
    end of the handshake, which has `ssl_handshake_timeout` seconds.
    """

    def __init__(
        self, service: Service, poller: Poller, fleet: Fleet, config: Config, hand_over: HandOver
    ) -> None:
        self._service = service
        self._poller = poller
        self._fleet = fleet
        self._config = config
        self._hand_over = hand_over
        self._silent = Silent(config.keep_alive_timeout)
        self._shaking = Silent(config.ssl_handshake_timeout)

    def __len__(self) -> int:
        return len(self._silent) + len(self._shaking)

    def add(self, sock: socket.socket) -> None:
        """Take over a connection that was just accepted."""
        self._add(Arrival(sock.detach(), self._silent, self))

    def add_secure(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        """Take over a connection that was just accepted, and begins with a handshake."""
        try:
            tls = Tls(context)
        except Exception as error:  # noqa: BLE001  it ends this one alone
            sock.close()
            self._poller.broken(error)
        else:
            self._add(SecureArrival(sock.detach(), self._shaking, self, tls))

    def shaken(self, arrival: Arrival) -> None:
        """The handshake of this one is over."""
        arrival.silent.remove(arrival)
        arrival.silent = self._silent
        arrival.deadline = self._silent.deadline()
        self._silent.add(arrival)

    def cut(self, arrival: Arrival) -> None:
        """Close a connection, unless it is no arrival any more."""
        arrival.silent.remove(arrival)
        fd, arrival.fd = arrival.fd, -1
        if fd >= 0:
            self._poller.forget(fd)
            os.close(fd)

    def overdue(self, arrival: Arrival) -> None:
        """Close a connection whose time is over. It is read once more: when very many come at once, the
        client may have said in time what there was no time to read."""
        waited = arrival.silent
        try:
            if not self.read(arrival) and arrival.silent is waited:
                self.cut(arrival)
        except Exception as error:  # noqa: BLE001  it ends this one alone
            self.cut(arrival)
            self._poller.broken(error)

    def close(self) -> None:
        """Close all that have sent nothing."""
        self._silent.cut_all()
        self._shaking.cut_all()

    async def expire(self) -> None:
        """Close connections at their deadlines, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._silent.expire)
            nursery.start_soon(self._shaking.expire)

    def _add(self, arrival: Arrival) -> None:
        try:
            if self.read(arrival):  # most requests have come by now
                return
            self._poller.watch(arrival.fd, arrival)
        except Exception as error:  # noqa: BLE001  it ends this one alone
            self.cut(arrival)
            self._poller.broken(error)
            return
        arrival.silent.add(arrival)

    def read(self, arrival: Arrival) -> bool:
        """Read what came. Returns whether the connection is no arrival any more."""
        received = arrival.receive()
        if received is None:
            return False
        if not received:
            self.cut(arrival)
            return True
        arrival.silent.remove(arrival)
        tls = arrival.tls
        head = None
        if tls is None or not tls.speaks_http2:
            head = plain_request(received, self._config.h11_max_incomplete_size)
        if head is None or not is_for_a_stream(head, self._config, self._service.settings):
            self._pass_on(arrival, received)
            return True
        answer = self._service.admission.admit_now(head.query, head.fields, partial(peer_of, arrival.fd))
        if answer is None:  # it waits for keys
            self._pass_on(arrival, received)
        elif isinstance(answer, Refused):
            arrival.answer(whole_response(answer, self._config, http11=True))
            self.cut(arrival)
        else:
            opening = opening_of(answer, head, self._config)
            fd, arrival.fd = arrival.fd, -1
            self._fleet.open(fd, opening, Stream if tls is None else partial(SecureStream, tls))
        return True

    def _pass_on(self, arrival: Arrival, received: bytes) -> None:
        fd, arrival.fd = arrival.fd, -1
        self._poller.forget(fd)
        self._hand_over(socket.socket(fileno=fd), arrival.tls, received, arrival.deadline)
