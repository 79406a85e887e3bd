"""The stop of the service, from the first signal to the end of the last stream."""

from __future__ import annotations

import multiprocessing
import random
import signal
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from trio_sse.delivery.hub import Hub
from trio_sse.delivery.notices import farewell

log = structlog.stdlib.get_logger("trio_sse.stopping")


class Stopping:
    """Ends the streams of a service one by one over `drain_seconds`, so that clients do not all reconnect at
    once.

    From the first signal on, the service is not ready and opens no new streams.
    """

    def __init__(self, hub: Hub, drain_seconds: float) -> None:
        self.requested = trio.Event()
        """Set when a signal has asked for the stop."""
        self._hub = hub
        self._seconds = drain_seconds
        self._begun = False
        self._at_once = trio.Event()
        self._drained = trio.Event()

    async def listen(
        self,
        signals: Iterable[signal.Signals],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive these signals until cancelled. SIGINT ends the draining at once, and so does a second
        signal, except in a worker: as soon as one worker has ended, Hypercorn sends SIGTERM to all others."""
        with trio.open_signal_receiver(*signals) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGINT or (self.requested.is_set() and not _in_worker()):
                    self._at_once.set()
                self.requested.set()

    async def after(self, trigger: Callable[[], Awaitable[object]]) -> None:
        """Wait for `trigger` or a signal, whichever comes first, and then until the streams have ended."""
        async with trio.open_nursery() as nursery:

            async def triggered() -> None:
                await trigger()
                nursery.cancel_scope.cancel()

            nursery.start_soon(triggered)
            await self.requested.wait()
            nursery.cancel_scope.cancel()
        await self.drain()

    async def drain(self) -> None:
        """Send `draining` on each stream and end it. Returns at once if there are no streams."""
        if self._begun:
            await self._drained.wait()
            return
        self._begun = self._hub.draining = True
        try:
            if self._seconds and len(self._hub) and not (self._hub.closed or self._at_once.is_set()):
                log.info("draining", streams=len(self._hub), seconds=self._seconds)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_all, nursery.cancel_scope)
                    await self._at_once.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._drained.set()

    async def _end_all(self, done: trio.CancelScope) -> None:
        connections = self._hub.connections
        random.shuffle(connections)
        start, step = trio.current_time(), self._seconds / len(connections)
        for number, connection in enumerate(connections):
            await trio.sleep_until(start + number * step)
            connection.end(farewell("draining", 2 * self._seconds))
        done.cancel()


def unattended() -> list[signal.Signals]:
    """The signals without a handler in a worker process. Hypercorn handles the stop only in its main process,
    but a service manager sends SIGTERM, and a terminal SIGINT, to all processes of the group."""
    if not _in_worker():
        return []
    found = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    return [number for number, handler in found if handler in (signal.SIG_DFL, signal.SIG_IGN)]


def _in_worker() -> bool:
    return multiprocessing.parent_process() is not None
