"""A back end with an outbox: publishes, tries again what Redis did not take, and knows what Redis has."""

from __future__ import annotations

import json
import math
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import hiredis
import trio
from redis.crc import key_slot

from tests.chaos.keys import EVERYBODY, Keys, addressed, topics_of, users_of
from tests.chaos.ledger import Lane, Ledger, Message
from tests.chaos.resp import BrokenLinkError, Command, Link
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.targets import topic as targets_topic

CHANNEL, STREAM = "chaos", "chaos:stream"
LAYOUT = Layout(STREAM, 4)
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
        self.by_key = False
        """Whether each user and topic has a channel of its own."""
        self.partitioned = False
        """Whether the stream is in partitions."""
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
        commands = [self._commands(parcel) for parcel in batch]
        try:
            replies = _together(commands, await self._link.pipeline(list(chain(*commands))))
        except BrokenLinkError as error:
            # With replicas: answered by a master that may be gone, and the answered with it.
            answered = [] if self._replicas else _together(commands, error.replies)
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
        logs = [LAYOUT.name(one.number) for one in LAYOUT.all] if self.partitioned else [STREAM]
        found = await link.pipeline([("XREVRANGE", key, "+", "-", "COUNT", count) for key in logs])
        there: dict[str, set[int]] = {}
        for key, entries in zip(logs, found, strict=True):
            if isinstance(entries, hiredis.HiredisError):
                raise BrokenLinkError(str(entries))
            there[key] = {json.loads(entry[1][1])["n"] for entry in entries}
        again = []
        for parcel in self._unsure:
            if all(parcel.serial in there[key] for key in self._logs(parcel.keys)):
                self._accept(parcel)
            else:
                again.append(parcel)
        self._unsure = []
        self._outbox.extendleft(reversed(again))

    def _accept(self, parcel: Parcel) -> None:
        parcel.accepted = True
        self._ledger.accept(parcel.serial, parcel.lane)

    def _commands(self, parcel: Parcel) -> list[Command]:
        """What publishes it: by key one command for each key."""
        payload = self._payload(parcel)
        if parcel.lane == "channel":
            if not self.by_key:
                return [("PUBLISH", CHANNEL, payload)]
            return [("PUBLISH", *copy) for copy in copies(parcel.keys, payload)]
        limit = () if self.max_length is None else ("MAXLEN", "=", self.max_length)
        return [("XADD", key, *limit, self.entry_id, "payload", payload) for key in self._logs(parcel.keys)]

    def _logs(self, keys: Keys) -> list[str]:
        """The keys of the log in Redis that have messages for these."""
        if not self.partitioned:
            return [STREAM]
        targets = [*users_of(keys), *map(targets_topic, topics_of(keys))]
        return [LAYOUT.name(number) for number in LAYOUT.numbers(None if EVERYBODY in keys else targets)]

    @staticmethod
    def _payload(parcel: Parcel) -> str:
        message: dict[str, Any] = {**addressed(parcel.keys), "n": parcel.serial}
        if parcel.padding:
            message["padding"] = "x" * parcel.padding
        if parcel.state:
            message["key"] = f"{parcel.lane} {parcel.state}"
        if parcel.ttl is not None:
            message["ttl"] = parcel.ttl
        return json.dumps(message, separators=(",", ":"))


def copies(keys: Keys, payload: str) -> list[tuple[str, str]]:
    """Channel and payload for each key. Copies have a text in common, so that each client gets one."""
    if EVERYBODY in keys:
        return [(f"{CHANNEL}:all", payload)]
    if len(keys) > 1:
        payload = f'{payload[:-1]},"trio_sse.copy":"{secrets.token_urlsafe(16)}"}}'
    users = [f"{CHANNEL}:user:{user}" for user in users_of(keys)]
    return [
        (channel, payload) for channel in (*users, *(f"{CHANNEL}:topic:{one}" for one in topics_of(keys)))
    ]


def _together(commands: list[list[Command]], replies: Sequence[Any]) -> list[Any]:
    """One reply for each list of commands: an error if there is one among them."""
    found, left = [], deque(replies)
    for own in commands:
        if len(left) < len(own):
            break
        answers = [left.popleft() for _ in own]
        found.append(next((one for one in answers if isinstance(one, hiredis.HiredisError)), answers[0]))
    return found


class ClusterPublisher(Publisher):
    """Publishes each copy at the master that serves its channel. Patience ends: a command that a frozen
    master still carries out later is one of which nobody knows. What it answered last, it may have passed on
    only when it woke, behind what its replica was given meanwhile."""

    PATIENCE_SECONDS = 0.5

    def __init__(self, ledger: Ledger, seeds: Callable[[], Sequence[int]], *, replicas: int = 0) -> None:
        super().__init__(ledger, self._nowhere, replicas=replicas)
        self._seeds = seeds
        self._links: dict[int, Link] = {}
        self._slots: dict[int, int] = {}
        self._answered: dict[int, list[tuple[int, Lane]]] = {}
        """What each master answered last, by its port."""

    @staticmethod
    async def _nowhere() -> int:
        raise BrokenLinkError("a cluster has no one place")

    def _hang_up(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._slots.clear()

    async def _send(self) -> None:
        if self._unsure:  # they count as void, and are sent again
            self._outbox.extendleft(reversed(self._unsure))
            self._unsure = []
        if not self._slots:
            await self._look()
        batch = [self._outbox.popleft() for _ in range(min(AT_ONCE, len(self._outbox)))]
        by_node: dict[int, list[tuple[int, Command]]] = {}
        for number, parcel in enumerate(batch):
            parcel.serial = self._ledger.attempt(parcel.message())
            for command in self._commands(parcel):
                port = self._slots.get(key_slot(str(command[1]).encode()), 0)
                by_node.setdefault(port, []).append((number, command))
        self._unsure = batch
        outcomes: list[Any] = [None] * len(batch)
        broken: set[int] = set()
        for port, commands in by_node.items():
            numbers = [number for number, _ in commands]
            try:
                with trio.fail_after(self.PATIENCE_SECONDS):
                    link = await self._link_to(port)
                    replies = await link.pipeline([command for _, command in commands])
                    if self._replicas:
                        await self._replicated_once(link)
            except (BrokenLinkError, trio.TooSlowError):
                broken.update(numbers)
                for serial, lane in self._answered.pop(port, ()):
                    self._ledger.doubt(serial, lane)
                continue
            self._answered[port] = [(batch[number].serial, batch[number].lane) for number in numbers]
            for number, reply in zip(numbers, replies, strict=True):
                if not isinstance(outcomes[number], hiredis.HiredisError):
                    outcomes[number] = reply
        sure = [(one, outcomes[number]) for number, one in enumerate(batch) if number not in broken]
        self._unsure = [one for number, one in enumerate(batch) if number in broken]
        await self._settle([one for one, _ in sure], [reply for _, reply in sure])
        if broken:
            raise BrokenLinkError("a master did not answer")
        if any(isinstance(reply, hiredis.HiredisError) for _, reply in sure):
            self._hang_up()  # who serves what now?

    def _commands(self, parcel: Parcel) -> list[Command]:
        if self.partitioned:
            return super()._commands(parcel)
        return [("SPUBLISH", *copy) for copy in copies(parcel.keys, self._payload(parcel))]

    async def _replicated_once(self, link: Link) -> None:
        """Raises BrokenLinkError if a replica is there and does not have it soon."""
        have, role = await link.pipeline([("WAIT", self._replicas, 200), ("ROLE",)])
        there = 0 if isinstance(role, hiredis.HiredisError) else len(role[2])
        if isinstance(have, hiredis.HiredisError) or have < min(self._replicas, there):
            raise BrokenLinkError("no replica has it")

    async def _link_to(self, port: int) -> Link:
        if not port:
            raise BrokenLinkError("nobody serves it")
        if port not in self._links:
            self._links[port] = await Link.open(port, database=0)
        return self._links[port]

    async def _look(self) -> None:
        """Ask nodes, until one that is in a cluster that works says who serves what."""
        for port in self._seeds():
            try:
                with trio.fail_after(self.PATIENCE_SECONDS):
                    link = await self._link_to(port)
                    info, slots = await link.pipeline([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
            except (BrokenLinkError, trio.TooSlowError):
                self._hang_up()
                continue
            if b"cluster_state:ok" in info:
                for first, last, master, *_ in slots:
                    self._slots.update(dict.fromkeys(range(first, last + 1), master[1]))
                return
        raise BrokenLinkError("no node says who serves what")
