"""Waiting for many sockets with one task: an epoll descriptor (epoll(7)) nested in Trio's own."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Protocol

import trio

BUDGET_SECONDS = 0.001
"""How long sockets are read, or connections accepted, before other tasks run."""

_MOST_EVENTS = 64


class Watched(Protocol):
    """Reads one socket."""

    def readable(self) -> None:
        """Something came, or the client left."""
        ...

    def cut(self) -> None:
        """Close the socket now."""
        ...


class Poller:
    """Tells `Watched` objects when their sockets can be read. While nothing comes, a socket costs no task.

    It is level-triggered: what was not read, or not told in time, is told again.
    """

    def __init__(self, broken: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        self.broken = broken
        """Is told the error of a socket that was cut."""

    def watch(self, fd: int, watched: Watched) -> None:
        """Tell `watched` about this descriptor from now on, in place of what was told before."""
        if fd not in self._watched:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        self._watched[fd] = watched

    def forget(self, fd: int) -> None:
        """Must be called before the descriptor is closed or given to others. Harmless if it is not
        watched."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Tell of what comes, until cancelled. An error of one socket cuts it, and is told to `broken`."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._tell()  # a function of its own: no variable holds the last socket meanwhile

    def _tell(self) -> None:
        until = time.perf_counter() + BUDGET_SECONDS
        # What comes meanwhile is told in the same turn: a turn of Trio takes as long as many events.
        while events := self._epoll.poll(0, _MOST_EVENTS):
            for fd, _ in events:
                # It may have gone since: by an error of another one, or by the end of all.
                if (watched := self._watched.get(fd)) is not None:
                    try:
                        watched.readable()
                    except Exception as error:  # noqa: BLE001  it ends this one alone
                        watched.cut()
                        self.broken(error)
                if time.perf_counter() >= until:
                    return

    def cut_all(self) -> None:
        """Cut all sockets."""
        for watched in list(self._watched.values()):
            watched.cut()

    def close(self) -> None:
        """Cut all sockets, and watch none from now on."""
        self.cut_all()
        self._epoll.close()
