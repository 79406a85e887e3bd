"""A back end with an outbox: publishes, tries again what Redis did not take, and knows what Redis has."""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import trio

from tests.chaos.keys import Keys, addressed
from tests.chaos.ledger import Lane, Ledger, Message
from tests.chaos.resp import BrokenLinkError, Command, Link

CHANNEL, STREAM = "chaos", "chaos:stream"
AT_ONCE = 50
"""Messages in one pipeline."""
OUTBOX = 400
"""Messages that may wait before `load` makes no more."""


@dataclass(eq=False, slots=True)
class Parcel:
    """A message on its way into Redis. `serial` is the number of the latest attempt."""

    keys: Keys
    lane: Lane
    padding: int
    state: str = ""
    """See `ledger.Message`. Its name in Redis has the lane in it: between lanes there is no order."""
    ttl: float | None = None
    """Seconds."""
    serial: int = 0
    accepted: bool = False

    def message(self) -> Message:
        """What the next attempt sends, now."""
        now = trio.current_time()
        return Message(self.keys, self.state, now, math.inf if self.ttl is None else now + self.ttl)


Kind = dict[str, Any]
"""Arguments of `Publisher.put`: none, `state` or `ttl`."""


class Publisher:
    """One connection, one task. What breaks off in the middle is looked up in the stream afterwards: nobody
    else writes to it, so what is not there never will be."""

    def __init__(
        self,
        ledger: Ledger,
        where: Callable[[], Awaitable[int]],
        *,
        password: str | None = None,
        replicas: int = 0,
    ) -> None:
        self.refused = 0
        """Attempts that Redis answered with an error."""
        self.broken = 0
        """Pipelines that broke off."""
        self.entry_id = "*"
        self.max_length: int | None = None
        self.paused = False
        self.padding = 0
        self.kind: Callable[[], Kind] = dict
        """What sets the next message of `load` apart."""
        self._ledger = ledger
        self._where = where
        self._password = password
        self._replicas = replicas
        self._outbox: deque[Parcel] = deque()
        self._waiting = trio.Event()
        self._link: Link | None = None
        self._unsure: list[Parcel] = []
        """Sent, and not answered, or not by enough replicas."""

    @property
    def backlog(self) -> int:
        """Messages of which Redis has not said yet that it has them."""
        return len(self._outbox) + len(self._unsure)

    def put(self, keys: Keys, lane: Lane, *, state: str = "", ttl: float | None = None) -> Parcel:
        parcel = Parcel(keys, lane, self.padding, state, ttl)
        self._outbox.append(parcel)
        self._waiting.set()
        return parcel

    async def load(self, keys: Callable[[], Keys], lanes: Sequence[Lane], rate: float) -> None:
        """Messages, `rate` each second, until cancelled. `keys` says for whom the next one is."""
        owed = 0.0
        while True:
            await trio.sleep(0.02)
            owed = min(owed + rate * 0.02, OUTBOX)
            while owed >= 1 and not self.paused and len(self._outbox) < OUTBOX:
                owed -= 1
                self.put(keys(), random.choice(lanes), **self.kind())

    async def run(self) -> None:
        """Send what is in the outbox, until cancelled."""
        try:
            while True:
                await self._waiting.wait()
                try:
                    await self._send()
                except BrokenLinkError:
                    self.broken += 1
                    self._hang_up()
                    await trio.sleep(0.05)
                if not self.backlog:
                    self._waiting = trio.Event()
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _send(self) -> None:
        if self._link is None:
            self._link = await Link.open(await self._where(), password=self._password)
        if self._unsure:
            await self._resolve(self._link)
        batch = [self._outbox.popleft() for _ in range(min(AT_ONCE, len(self._outbox)))]
        for parcel in batch:
            parcel.serial = self._ledger.attempt(parcel.message())
        self._unsure = batch
        try:
            replies = await self._link.pipeline([self._command(parcel) for parcel in batch])
        except BrokenLinkError as error:
            # With replicas: answered by a master that may be gone, and the answered with it.
            answered = [] if self._replicas else error.replies
            self._unsure = batch[len(answered) :]
            await self._settle(batch, answered)
            raise
        if self._replicas:
            await self._replicated(self._link, batch)
        self._unsure = []
        await self._settle(batch, replies)

    async def _replicated(self, link: Link, batch: list[Parcel]) -> None:
        """Wait until replicas have it."""
        have = 0 if any(parcel.lane == "stream" for parcel in batch) else self._replicas
        while have < self._replicas:
            (have,) = await link.pipeline([("WAIT", self._replicas, 500)])
            if isinstance(have, hiredis.HiredisError):
                raise BrokenLinkError(str(have))

    async def _settle(self, batch: list[Parcel], replies: list[Any]) -> None:
        refused = []
        for parcel, reply in zip(batch, replies, strict=False):
            if isinstance(reply, hiredis.HiredisError):
                refused.append(parcel)
            else:
                self._accept(parcel)
        if refused:
            self.refused += len(refused)
            self._outbox.extendleft(reversed(refused))
            if any(str(reply).startswith("READONLY") for reply in replies):
                self._hang_up()  # no master any more
            await trio.sleep(0.02)

    async def _resolve(self, link: Link) -> None:
        """Which of the unsure are in the stream? The others are sent again under another number."""
        count = 4 * AT_ONCE
        (entries,) = await link.pipeline([("XREVRANGE", STREAM, "+", "-", "COUNT", count)])
        if isinstance(entries, hiredis.HiredisError):
            raise BrokenLinkError(str(entries))
        there = {json.loads(entry[1][1])["n"] for entry in entries}
        again = []
        for parcel in self._unsure:
            if parcel.serial in there:
                self._accept(parcel)
            else:
                again.append(parcel)
        self._unsure = []
        self._outbox.extendleft(reversed(again))

    def _accept(self, parcel: Parcel) -> None:
        parcel.accepted = True
        self._ledger.accept(parcel.serial, parcel.lane)

    def _command(self, parcel: Parcel) -> Command:
        message: dict[str, Any] = {**addressed(parcel.keys), "n": parcel.serial}
        if parcel.padding:
            message["padding"] = "x" * parcel.padding
        if parcel.state:
            message["key"] = f"{parcel.lane} {parcel.state}"
        if parcel.ttl is not None:
            message["ttl"] = parcel.ttl
        payload = json.dumps(message, separators=(",", ":"))
        if parcel.lane == "channel":
            return ("PUBLISH", CHANNEL, payload)
        limit = () if self.max_length is None else ("MAXLEN", "=", self.max_length)
        return ("XADD", STREAM, *limit, self.entry_id, "payload", payload)
