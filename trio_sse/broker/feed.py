"""Subscribed link → hub: reads all that Redis sends on it, and notices when it is silent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import trio
import trio_asyncio
from redis.exceptions import InvalidResponse, ResponseError

from trio_sse.broker.link import Link, answer_within
from trio_sse.broker.takeover import NOTHING, Takeover, can_take_over
from trio_sse.delivery.hub import MAX_PENDING_BYTES, Hub
from trio_sse.delivery.intake import Intake

PING_SECONDS = 5.0
PONG_SECONDS = 10.0
"""No answer to a PING for so long means a lost link. redis-py sends PINGs but does not check for the PONG."""
SILENCE_SECONDS = 15.0
"""Silence after which the service is not ready."""

TURNS_OF_A_SERVER = 5
"""Turns of the loop that an ASGI server takes for a write; Hypercorn with Quart takes 3. Messages that come
meanwhile wait in SSE_BUFFER. If Redis were read in each turn, it would be full though the client is quick."""

Takes = Mapping[bytes, Callable[[list[Any]], None]]


def _raise(error: Exception) -> None:
    raise error


class Feed:
    """Reads one link after the other.

    `takes` has what to do with a reply of three parts, by its first one: `message`, `subscribe`. `refused`
    gets each error that Redis answers.
    """

    def __init__(
        self,
        hub: Hub,
        intake: Intake,
        takes: Takes,
        *,
        refused: Callable[[Exception], None] = _raise,
        ping_seconds: float = PING_SECONDS,
        pong_seconds: float = PONG_SECONDS,
    ) -> None:
        self._hub = hub
        self._intake = intake
        self._takes = takes
        self._refused = refused
        self._ping_seconds = ping_seconds
        self._pong_seconds = pong_seconds
        self._answered = asyncio.Event()
        self.last_answer = -math.inf
        """When Redis was last heard of, on Trio's clock."""

    def problem(self, address: str) -> str | None:
        """Why the link is no good, though it is not lost yet. `address` is that of Redis."""
        silence = trio.current_time() - self.last_answer
        return (
            f"Redis at {address} has not answered for {silence:.0f} s" if silence > SILENCE_SECONDS else None
        )

    def heard(self) -> None:
        """Redis has answered."""
        self.last_answer = trio.current_time()

    async def run(self, link: Link, *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Read `link` until it is lost. `beside` runs meanwhile; an error there ends this too. Raises one of
        link.ERRORS, or a group of them."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_pinging(link, self._answered, self._ping_seconds, self._pong_seconds))
            for run in beside:
                tasks.create_task(run())
            await self._read(link)

    async def _read(self, link: Link) -> None:
        if can_take_over(link):
            with Takeover(link) as takeover:
                await trio_asyncio.trio_as_aio(self._read_in_trio)(takeover)
        else:
            await self._read_in_asyncio(link)

    async def _read_in_trio(self, takeover: Takeover) -> None:
        hub, answered, counters = self._hub, self._answered, self._hub.counters
        while True:
            self.last_answer = trio.current_time()
            before = counters.received
            if self._dispatch(takeover):
                await hub.wait_taken()
                continue
            if not answered.is_set():
                answered.set()
            patiently = False
            if not hub.pending.is_set():  # else the flusher takes its time
                if hub.by_server:
                    for _ in range(TURNS_OF_A_SERVER):
                        await trio.lowlevel.checkpoint()
                else:
                    patiently = counters.received > before + 1  # several at once: more are coming
            await takeover.receive(patiently=patiently)

    def _dispatch(self, takeover: Takeover) -> bool:
        """Dispatch all that was received. Returns whether there is more, and too much waits for the
        flusher."""
        hub, takes, parse = self._hub, self._takes, takeover.parse
        with self._intake:
            while True:
                try:
                    response = parse(False)
                except TypeError as error:  # a RESP 3 map whose key is no text
                    raise InvalidResponse(str(error)) from error
                if response is NOTHING:
                    break
                if type(response) is list and len(response) == 3:
                    kind = response[0]
                    if type(kind) is bytes and kind in takes:
                        takes[kind](response)
                        if hub.pending_bytes > MAX_PENDING_BYTES:
                            return True
                elif isinstance(response, Exception):
                    self._refused(response)
        return False

    async def _read_in_asyncio(self, link: Link) -> None:
        # While the parser has buffered input this loop does not yield, so the flusher runs when all that
        # one read of the socket brought has been dispatched.
        read, answered, hub, takes = link.read_response, self._answered, self._hub, self._takes
        while True:
            try:
                response = await read(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                self._refused(error)
                continue
            self.last_answer = trio.current_time()
            if type(response) is list and len(response) == 3 and type(response[0]) is bytes:
                if response[0] in takes:
                    takes[response[0]](response)
                if hub.pending_bytes > MAX_PENDING_BYTES:
                    await trio_asyncio.trio_as_aio(hub.wait_taken)()
            if not answered.is_set():
                answered.set()


async def keep_pinging(
    link: Link,
    answered: asyncio.Event,
    ping_seconds: float = PING_SECONDS,
    pong_seconds: float = PONG_SECONDS,
) -> None:
    """Send PINGs, until cancelled. Whoever reads the link sets `answered` with each answer. Raises
    TimeoutError when none comes for too long."""
    task = asyncio.current_task()
    while task is not None and not task.cancelling():
        await asyncio.sleep(ping_seconds)
        answered.clear()
        await link.send_command("PING", check_health=False)
        async with answer_within(pong_seconds):
            await answered.wait()
