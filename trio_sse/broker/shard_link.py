"""One Redis, or one master of a cluster → hub: subscribed to the channels of the targets that a shard has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import structlog
from redis.exceptions import MovedError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.channels import GAP, Channels, targets_of
from trio_sse.broker.cluster_map import Address
from trio_sse.broker.feed import SILENCE_SECONDS, Feed
from trio_sse.broker.link import CONNECT_SECONDS, Link, answer_within, open_link, replicates
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.intake import Intake
from trio_sse.delivery.interest import Interest, Shard
from trio_sse.delivery.targets import ALL, Target
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.shard_link")

BATCH = 1000
"""Channels in one write, and in one command where Redis takes several."""


class Parts(NamedTuple):
    """What all links of a service have in common."""

    settings: Settings
    hub: Hub
    intake: Intake
    interest: Interest
    channels: Channels


class ShardLink:
    """Keeps one link subscribed to what `shard` wants. Without `address` it is that of the settings. In a
    cluster, `moved` is told of each target that Redis refuses because another node serves it, and `lost` is
    told when the link is."""

    def __init__(
        self,
        parts: Parts,
        shard: Shard,
        *,
        address: Address | None = None,
        moved: Callable[[Shard, Target, MovedError], None] | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._parts = parts
        self.shard = shard
        self._address = address
        self._moved = moved
        self._lost = lost
        sharded = b"" if moved is None else b"s"
        self._verbs = (sharded + b"subscribe", sharded + b"unsubscribe")
        takes = {
            self._verbs[0]: self._confirmed,
            self._verbs[1]: self._unsubscribed,
            sharded + b"message": self._message,
        }
        self._feed = Feed(parts.hub, parts.intake, takes, refused=self._refused)
        self._leaving: dict[bytes, int] = {}
        name = parts.settings.redis_address if address is None else "{}:{}".format(*address)
        self.name = name
        """Its address, for the log."""
        self.attempts = Attempts(parts.settings, name)

    @property
    def problem(self) -> str | None:
        """Why messages may be missing now, or None."""
        if not self.attempts.succeeded:
            return self.attempts.problem
        if (silence := self._feed.silence) > SILENCE_SECONDS:
            return f"Redis at {self.name} has not answered for {silence:.0f} s"
        if self.shard.owed:
            return f"Redis at {self.name}: subscribing again, to {len(self.shard.owed)} channels"
        return None

    @property
    def problem_code(self) -> str:
        """The kind of `problem`, fit for public answers."""
        if not self.attempts.succeeded:
            return self.attempts.code
        return "redis_silent" if self._feed.silence > SILENCE_SECONDS else "redis_subscribing"

    async def run(self) -> None:
        """Until cancelled."""
        await self.attempts.run(self._serve)

    async def _serve(self) -> None:
        parts = self._parts
        try:
            async with open_link(parts.settings, at=self._address) as link:
                async with answer_within(CONNECT_SECONDS):
                    master = await replicates(link)
                self._feed.heard()
                self._leaving.clear()
                if not self.attempts.first:
                    parts.hub.counters.redis_reconnects += 1
                parts.interest.link_up(self.shard)
                parts.hub.history.subscribed()
                self._say(master)
                if not self.shard.queue:
                    self.attempts.success()
                await self._feed.run(link, partial(self._send, link))
        finally:
            parts.interest.link_lost(self.shard)
            self._lost()

    def _say(self, master: str | None) -> None:
        channel = f"{self._parts.settings.redis_channel}:*"
        log.info("subscribing at Redis", redis=self.name, channel=channel, channels=len(self.shard.queue))
        if master is not None:
            log.warning(
                "Redis is a replica: what is published at it, and not at its master, reaches only its own "
                "subscribers, and POST /publish is refused",
                redis=self.name,
                master=master,
            )

    async def _send(self, link: Link) -> None:
        """Ask for what the shard wants, and leave what it does not, whenever that changes."""
        shard, of = self.shard, self._parts.channels.of
        subscribe, unsubscribe = self._verbs
        while True:
            await shard.changed.wait()
            shard.changed.clear()
            while targets := shard.take_drop(BATCH):
                channels = list(map(of, targets))
                for channel in channels:
                    self._leaving[channel] = self._leaving.get(channel, 0) + 1
                await self._write(link, unsubscribe, channels)
            while targets := shard.take_queue(BATCH):
                await self._write(link, subscribe, list(map(of, targets)))

    async def _write(self, link: Link, verb: bytes, channels: list[bytes]) -> None:
        # In a cluster, all channels of one command must be in one slot.
        commands: Any = [(verb, *channels)] if self._moved is None else [(verb, one) for one in channels]
        await link.send_packed_command(link.pack_commands(commands), check_health=False)

    def _confirmed(self, response: list[Any]) -> None:
        if not self.shard.asked:
            return
        self._parts.interest.confirmed(self.shard, self.shard.asked[0])
        if not self.attempts.succeeded:
            self.attempts.success()

    def _unsubscribed(self, response: list[Any]) -> None:
        channel = response[1]
        if (expected := self._leaving.pop(channel, 0)) > 1:
            self._leaving[channel] = expected - 1
        elif not expected and (target := self._parts.channels.target_of(channel)) is not None:
            # Redis did it by itself: another node serves the slot now. Where, it says when it is asked.
            self._parts.interest.moved(self.shard, target)

    def _message(self, response: list[Any]) -> None:
        _, channel, payload = response
        target = self._parts.channels.target_of(channel)
        if target == ALL and payload == GAP:
            self._parts.hub.announce_gap("redis_reconnected")
        elif target is not None and type(payload) is bytes:
            self._parts.intake.receive(payload, None, targets_of(target))

    def _refused(self, error: Exception) -> None:
        if not isinstance(error, MovedError) or self._moved is None or not self.shard.asked:
            raise error
        self._moved(self.shard, self._parts.interest.refused(self.shard), error)
