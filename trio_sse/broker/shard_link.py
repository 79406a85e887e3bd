"""One Redis, or one master of a cluster → hub: subscribed to the channels of the targets that a shard has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import structlog
from hiredis import pack_command
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError, TryAgainError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.canary import Canary
from trio_sse.broker.channels import Channels, targets_of
from trio_sse.broker.cluster_map import Address
from trio_sse.broker.echoes import Echoes
from trio_sse.broker.errors import IS_REPLICA
from trio_sse.broker.feed import Feed
from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, open_link, replicates
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.interest import Interest, Shard
from trio_sse.delivery.messages import COPY
from trio_sse.delivery.notices import GAP
from trio_sse.delivery.targets import ALL, Target
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.shard_link")

BATCH = 1000
"""Channels in one write, and in one command where Redis takes several."""

_COPY = COPY.encode()

REFUSED_SECONDS = 0.5
"""How long a master is not asked that has refused a channel for now."""


class Parts(NamedTuple):
    """What all links of a service have in common."""

    settings: Settings
    hub: Hub
    intake: Intake
    interest: Interest
    channels: Channels
    canary: Canary | None = None


class ShardLink:
    """Keeps one link subscribed to what `shard` wants. Without `address` it is that of the settings. In a
    cluster, `moved` is told of each target that Redis refuses because another node serves it, and `lost` is
    told when the link is; `echoes` knows what has come by the master whose place this one has taken."""

    def __init__(
        self,
        parts: Parts,
        shard: Shard,
        *,
        address: Address | None = None,
        moved: Callable[[ShardLink, Target, MovedError], None] | None = None,
        lost: Callable[[], None] = lambda: None,
        echoes: Echoes | None = None,
    ) -> None:
        self._parts = parts
        self.shard = shard
        self.address = address
        self.replicas: frozenset[Address] = frozenset()
        """Who would take its place in the cluster."""
        self._moved = moved
        self._lost = lost
        self._echoes = echoes
        self._passed_over: dict[Target, int] = {}
        sharded = b"" if moved is None else b"s"
        self._verbs = (sharded + b"subscribe", sharded + b"unsubscribe")
        takes = {
            self._verbs[0]: self._confirmed,
            self._verbs[1]: self._unsubscribed,
            sharded + b"message": self._message if parts.canary is None else self._message_or_canary,
        }
        self._feed = Feed(parts.hub, parts.intake, takes, refused=self._refused)
        self._master: str | None = None
        name = parts.settings.redis_address if address is None else "{}:{}".format(*address)
        self.name = name
        """Its address, for the log."""
        self.attempts = Attempts(parts.settings, name)
        if parts.hub.recorder is not None:
            self.attempts.noted = parts.hub.recorder.trouble

    @property
    def problem(self) -> str | None:
        """Why messages may be missing now, or None."""
        if (owed := self.shard.owed) and self.shard.up:
            missing = len(owed) - len(self.shard.back)
            return f"Redis at {self.name}: subscribing again, {missing} of {len(owed)} channels to go"
        return self._feed.problem(self.name) if self.attempts.succeeded else self.attempts.problem

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        if self.shard.owed and self.shard.up:
            return "redis_subscribing"
        return "redis_silent" if self.attempts.succeeded else self.attempts.code

    async def run(self) -> None:
        """Until cancelled."""
        await self.attempts.run(self._serve)

    async def _serve(self) -> None:
        parts = self._parts
        try:
            async with open_link(parts.settings, at=self.address) as link:
                async with answer_within(CONNECT_SECONDS):
                    master = await replicates(link)
                self._feed.heard()
                self._master = master
                parts.interest.link_up(self.shard)
                parts.hub.history.subscribed()
                await self._feed.run(link, partial(self._send, link))
        finally:
            parts.interest.link_lost(self.shard)
            self._lost()

    def _note_success(self) -> None:
        """Once all is subscribed that was when the link was lost."""
        shard, attempts = self.shard, self.attempts
        if attempts.succeeded or shard.owed or not (shard.has or not (shard.queue or shard.asked)):
            return
        if not attempts.first:
            self._parts.hub.counters.redis_reconnects += 1
        attempts.success()
        channel = f"{self._parts.settings.redis_channel}:*"
        log.info("subscribed to Redis", redis=self.name, channel=channel, channels=len(shard.has))
        if self._master is not None:
            log.warning(IS_REPLICA, redis=self.name, master=self._master)

    async def _send(self, link: Link) -> None:
        """Ask for what the shard wants, and leave what it does not, whenever that changes."""
        shard, of = self.shard, self._parts.channels.of
        subscribe, unsubscribe = self._verbs
        while True:
            self._note_success()
            await shard.changed.wait()
            if shard.refuses:
                await asyncio.sleep(REFUSED_SECONDS)
                shard.refuses = False
            shard.changed.clear()
            while targets := shard.take_drop(BATCH):
                await self._write(link, unsubscribe, list(map(of, targets)))
            while targets := shard.take_queue(BATCH):
                await self._write(link, subscribe, list(map(of, targets)))

    async def _write(self, link: Link, verb: bytes, channels: list[bytes]) -> None:
        # In a cluster, all channels of one command must be in one slot. redis-py packs in three times the
        # time, which is a quarter of all that it takes to subscribe again.
        commands: Any = [(verb, *channels)] if self._moved is None else [(verb, one) for one in channels]
        packed = b"".join(map(pack_command, commands))
        await link.send_packed_command(packed, check_health=False)

    def _confirmed(self, response: list[Any]) -> None:
        if (target := self._parts.channels.target_of(response[1])) is not None:
            self._parts.interest.confirmed(self.shard, target)
            self._note_success()

    def _unsubscribed(self, response: list[Any]) -> None:
        # Another node may serve the slot now. Which, Redis says when it is asked.
        if (target := self._parts.channels.target_of(response[1])) is not None:
            self._parts.interest.unsubscribed(self.shard, target)

    def _message_or_canary(self, response: list[Any]) -> None:
        if self._parts.canary is None or not self._parts.canary.takes(response[2]):
            self._message(response)

    def _message(self, response: list[Any]) -> None:
        _, channel, payload = response
        target = self._parts.channels.target_of(channel)
        if target == ALL and payload == GAP:
            self._parts.hub.announce_gap("redis_reconnected")
        elif target is not None and type(payload) is bytes:
            if self._echoes is not None and self._echoes.is_one(self, channel, payload):
                if _COPY not in payload:  # a copy is known by its name
                    self._pass_over(target)
                    return
            elif self._passed_over:
                self._passed_over.pop(target, None)
            self._parts.intake.receive(payload, None, targets_of(target))

    def _pass_over(self, target: Target) -> None:
        """A message came a second time, or another one with the same text did. It is not delivered, and those
        who follow the target are told: once, until the next message, or a new stream that is not told yet."""
        streams = self._parts.hub.counters.streams
        if self._passed_over.get(target) != streams:
            self._passed_over[target] = streams
            self._parts.hub.announce_gap_to("redis_reconnected", [target])

    def _refused(self, error: Exception) -> None:
        """Redis answers in order, so what it refuses is the first that was asked for. Or it is a channel that
        was to be left: then there is nothing to do, or the first is refused, too, for the same reason."""
        if self._moved is None or not isinstance(error, MovedError | ClusterDownError | TryAgainError):
            raise error
        target = next(iter(self.shard.asked), None)
        if target is None:
            return
        if not isinstance(error, MovedError):
            self._parts.interest.refused(self.shard, target)
        elif key_slot(self._parts.channels.of(target)) == error.slot_id:
            self._moved(self, target, error)
