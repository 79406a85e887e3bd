"""Trying again: what is lost with Redis is begun anew, after a pause that grows. asyncio only."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from trio_sse.broker.errors import advice, is_refusal
from trio_sse.broker.link import ERRORS
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.attempts")

BACKOFF_SECONDS = (0.1, 5.0)


class Backoff:
    """Pauses between attempts, of a random length that may grow to twice as much each time, until `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An attempt has succeeded: the next pause is short."""
        self._ceiling = BACKOFF_SECONDS[0]

    def seconds(self) -> float:
        """The next pause."""
        low, high = BACKOFF_SECONDS
        seconds = random.uniform(low / 2, self._ceiling)  # noqa: S311  jitter, not a secret
        self._ceiling = min(self._ceiling * 2, high)
        return seconds


class Attempts:
    """Serves one Redis for as long as it can be reached, and on any of ERRORS begins again. `told` makes a
    line of an error, where it is not simply one of the Redis at `address`. `purpose` says in the log what it
    is for, if not for messages."""

    def __init__(
        self,
        settings: Settings,
        address: str,
        told: Callable[[BaseException], str] | None = None,
        *,
        purpose: str | None = None,
        limit: LogLimit | None = None,
    ) -> None:
        """With a `limit`, which several may share, not every problem has a line."""
        self._told = told or (lambda error: f"Redis at {address}: {advice(error, settings)}")
        self._more: dict[str, object] = {} if purpose is None else {"purpose": purpose}
        self._limit = limit
        self._backoff = Backoff()
        self.succeeded = False
        """Whether the present attempt has: see `success`."""
        self.problem = "Redis: not connected yet"
        """Why the last attempt has not. For the log: it has the address of Redis."""
        self.code = "redis_not_tried"
        """The kind of `problem`, fit for public answers."""
        self.first = True
        """Whether no attempt has had an outcome yet."""
        self.noted: Callable[[str, str], None] | None = None
        """Hears of each time that Redis is lost ("redis_lost", and why), and is back ("redis_back")."""
        self.tried: Callable[[], None] = lambda: None
        """Called after the first attempt, whatever its outcome."""

    def success(self) -> None:
        """Redis does what this attempt asked of it: the next pause is short."""
        if self.noted is not None and not self.succeeded and not self.first:
            self.noted("redis_back", "")
        self.succeeded = True
        self._backoff.reset()
        self._had_outcome()

    async def run(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Call `serve` again and again, until cancelled. It ends with one of ERRORS when Redis is lost. Any
        other error is raised."""
        while True:
            try:
                await serve()
            except ERRORS as error:
                self._lost(error)
            except ExceptionGroup as group:
                # From the task group: the reader's error, the pinger's, or both.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError from group  # a task group prefers errors to a cancellation
                others = group.split(ERRORS)[1]
                if others is not None:
                    raise others from None
                self._lost(group.exceptions[0])
            self._had_outcome()
            await asyncio.sleep(self._backoff.seconds())

    def _had_outcome(self) -> None:
        if self.first:
            self.first = False
            self.tried()

    def _lost(self, error: BaseException) -> None:
        """Store the problem, and log it if it is new: one line per change of state, not per try."""
        problem = self._told(error)
        if self.noted is not None and (self.succeeded or self.first):
            self.noted("redis_lost", problem)
        if self.succeeded or problem != self.problem:
            self._say("lost Redis, trying again" if self.succeeded else "no Redis, trying again", problem)
        self.succeeded = False
        self.problem = problem
        self.code = "redis_refused" if is_refusal(error) else "redis_unreachable"

    def _say(self, what: str, problem: str) -> None:
        more = self._more
        if self._limit is not None:
            unlogged = self._limit.passed()
            if unlogged is None:
                return
            more = {**more, "unlogged": unlogged}
        log.warning(what, problem=problem, **more)
