"""Keeps one partition of presence: this node's records as they are, and those of dead nodes away."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Iterable

from trio_sse.broker.attempts import Backoff
from trio_sse.broker.link import ERRORS
from trio_sse.broker.presence_records import Beat, Records, Told
from trio_sse.counters import Counters
from trio_sse.delivery.attendance import Roll

GATHER_SECONDS = 0.1
"""How long what comes is gathered, and written together."""

BATCH = 500
"""Records in one command."""


class Pace:
    """How often a node says that it lives, in seconds: twice in a heartbeat, so that it is known to be dead,
    and its users gone, within two of them."""

    def __init__(self, heartbeat: float, grace: float) -> None:
        heartbeat = max(heartbeat, 1.0)
        self.beat = heartbeat / 2
        self.lives = heartbeat * 1.5
        self.wait = max(0.0, grace - heartbeat)
        """After its death, until its users count as gone: they may come back, elsewhere."""
        self.farewell = grace
        self.keeps = max(3600.0, 200 * self.beat)
        """How long keys outlive the last node."""


class Keeper:
    """Writes what `roll` says. Tells `tell` who came (True) and who has gone, and `fails` what hinders it."""

    def __init__(
        self,
        records: Records,
        roll: Roll,
        pace: Pace,
        counters: Counters,
        tell: Callable[[Iterable[str], bool], None],
        fails: Callable[[Keeper, BaseException | None], None],
    ) -> None:
        self._records = records
        self._roll = roll
        self._pace = pace
        self._counters = counters
        self._tell = tell
        self._fails = fails
        self._name = secrets.token_hex(6)
        self._fresh = True
        self._epoch: str | None = None

    async def run(self) -> None:
        """Until cancelled. On any of ERRORS begins again, after a pause that grows."""
        backoff = Backoff()
        while True:
            try:
                await self._beat()
                self._roll.anew()
                self._fails(self, None)
                backoff.reset()
                await self._keep()
            except ERRORS as error:
                self._fails(self, error)
            await asyncio.sleep(backoff.seconds())

    async def farewell(self) -> None:
        """This node stops. Its users count as here for the grace, in which they come back elsewhere. Raises
        one of ERRORS."""
        if self._epoch is not None:
            await self._say(self._pace.farewell)

    async def _keep(self) -> None:
        roll, loop = self._roll, asyncio.get_running_loop()
        beats = loop.time() + self._pace.beat
        while True:
            if loop.time() >= beats:
                beats = loop.time() + self._pace.beat * random.uniform(0.9, 1)  # noqa: S311  jitter
                await self._beat()
                roll.refresh()
            await self._write()
            until = min(beats, max(roll.next_due, loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await roll.changed.wait()
                    roll.changed.clear()
                    await asyncio.sleep(GATHER_SECONDS)

    async def _beat(self) -> None:
        beat = await self._say(self._pace.lives)
        if not beat.known:  # others have taken it for dead, and remove what it had under this name
            self._name, self._fresh = secrets.token_hex(6), True
            beat = await self._say(self._pace.lives)
            self._roll.anew()
        self._fresh = False
        if self._epoch not in (None, beat.epoch):
            self._roll.wiped()
        self._epoch = beat.epoch
        for dead in beat.dead:
            self._hear(await self._records.remove(dead))

    async def _say(self, lives: float) -> Beat:
        return await self._records.beat(
            self._name, lives, self._pace.wait, epoch=secrets.token_hex(6), fresh=self._fresh
        )

    async def _write(self) -> None:
        roll = self._roll
        while changes := roll.take(BATCH):
            try:
                told = await self._records.write(self._name, changes, self._epoch or "")
            except BaseException:
                roll.not_written()
                raise
            if told is None:  # Redis came back empty, and nobody has noticed
                roll.not_written()
                await self._beat()
                continue
            roll.written()
            self._counters.presence_writes += len(changes)
            self._hear(told)

    def _hear(self, told: Told) -> None:
        self._tell(told.came, True)
        self._tell(told.gone, False)
