"""Plain connections from accept(2) until their first request was read."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial

import trio
from hypercorn.config import Config

from trio_sse.access.problem import Refused
from trio_sse.server.fleet import Fleet
from trio_sse.server.http1 import plain_request, whole_response
from trio_sse.server.poller import Poller
from trio_sse.server.requests import is_for_a_stream, opening_of, peer_of
from trio_sse.service import Service

_READ = 65536

HandOver = Callable[[socket.socket, bytes, float], None]


class Arrival:
    """A connection that has sent nothing yet."""

    __slots__ = ("_arrivals", "deadline", "fd")

    def __init__(self, fd: int, deadline: float, arrivals: Arrivals) -> None:
        self.fd = fd
        self.deadline = deadline
        self._arrivals = arrivals

    def readable(self) -> None:
        self._arrivals.read(self)

    def cut(self) -> None:
        self._arrivals.cut(self)


class Arrivals:
    """Reads the first bytes of each connection. A whole request for a stream, as browsers write it, is
    answered in the same turn and goes to the fleet. `hand_over` gets any other connection, with the bytes
    that were read and the deadline of its head.

    A connection that sends nothing for `keep_alive_timeout` seconds is closed.
    """

    def __init__(
        self, service: Service, poller: Poller, fleet: Fleet, config: Config, hand_over: HandOver
    ) -> None:
        self._service = service
        self._poller = poller
        self._fleet = fleet
        self._config = config
        self._hand_over = hand_over
        # In the order of their deadlines: the time is one for all.
        self._silent: dict[Arrival, None] = {}
        self._first = trio.Event()

    def __len__(self) -> int:
        return len(self._silent)

    def add(self, sock: socket.socket) -> None:
        """Take over a connection that was just accepted."""
        arrival = Arrival(sock.detach(), trio.current_time() + self._config.keep_alive_timeout, self)
        try:
            if self._answered(arrival):  # most requests have come by now
                return
            self._poller.watch(arrival.fd, arrival)
        except Exception as error:  # noqa: BLE001  it ends this one alone
            self.cut(arrival)
            self._poller.broken(error)
            return
        self._silent[arrival] = None
        self._first.set()

    def read(self, arrival: Arrival) -> None:
        """Something came from this one."""
        self._answered(arrival)

    def cut(self, arrival: Arrival) -> None:
        """Close a connection, unless it is no arrival any more."""
        self._silent.pop(arrival, None)
        fd, arrival.fd = arrival.fd, -1
        if fd >= 0:
            self._poller.forget(fd)
            os.close(fd)

    def close(self) -> None:
        """Close all that have sent nothing."""
        for arrival in list(self._silent):
            self.cut(arrival)

    async def expire(self) -> None:
        """Close connections at their deadlines, until cancelled."""
        while True:
            oldest = next(iter(self._silent), None)
            if oldest is None:
                self._first = trio.Event()
                await self._first.wait()
            elif oldest.deadline > trio.current_time():
                await trio.sleep_until(oldest.deadline)
            else:
                self.cut(oldest)

    def _answered(self, arrival: Arrival) -> bool:
        """Read what came. Returns whether the connection is no arrival any more."""
        try:
            received = os.read(arrival.fd, _READ)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:
            self.cut(arrival)
            return True
        self._silent.pop(arrival, None)
        head = plain_request(received, self._config.h11_max_incomplete_size)
        if head is None or not is_for_a_stream(head, self._config, self._service.settings):
            self._pass_on(arrival, received)
            return True
        answer = self._service.admission.admit_now(head.query, head.fields, partial(peer_of, arrival.fd))
        if answer is None:  # it waits for keys
            self._pass_on(arrival, received)
        elif isinstance(answer, Refused):
            with contextlib.suppress(OSError):  # the socket is empty: it takes the whole answer
                os.write(arrival.fd, whole_response(answer, self._config, http11=True))
            self.cut(arrival)
        else:
            opening = opening_of(answer, head, self._config)
            fd, arrival.fd = arrival.fd, -1
            self._fleet.open(fd, opening)
        return True

    def _pass_on(self, arrival: Arrival, received: bytes) -> None:
        fd, arrival.fd = arrival.fd, -1
        self._poller.forget(fd)
        self._hand_over(socket.socket(fileno=fd), received, arrival.deadline)
