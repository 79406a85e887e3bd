"""Who came and who has gone → messages to a topic, by the way that all messages take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

import structlog
import trio

from trio_sse.broker.attempts import BACKOFF_SECONDS, Backoff
from trio_sse.broker.publisher import Publisher, UnavailableError
from trio_sse.counters import Counters
from trio_sse.delivery.messages import topic_problem
from trio_sse.settings import Settings, SettingsError

log = structlog.stdlib.get_logger("trio_sse.broker.announcer")

SETTLE_SECONDS = BACKOFF_SECONDS[1] + 1
"""How long nothing is told after Redis is back. Until then all nodes have tried to subscribe again: a channel
keeps nothing for those who come later."""

EVENT = "presence"
BATCH = 500


def check(settings: Settings) -> None:
    """Raise SettingsError if SSE_PRESENCE_TOPIC is no topic."""
    if settings.presence_topic is not None and (problem := topic_problem(settings.presence_topic)):
        raise SettingsError([f"SSE_PRESENCE_TOPIC is no topic ({problem})."])


class Announcer:
    """Publishes to `topic` who came and who has gone. While Redis is away the newest of each user waits. A
    message of more than `most_bytes` would be refused by all nodes: there is none."""

    def __init__(self, publisher: Publisher, topic: str, counters: Counters, most_bytes: int) -> None:
        self._publisher = publisher
        self._topic = topic
        self._counters = counters
        self._most_bytes = most_bytes
        self._waiting: dict[str, bool] = {}
        self._not_before = 0.0
        self._some = trio.Event()

    def tell(self, users: Iterable[str], online: bool) -> None:
        """Publish, soon, that these are online, or not."""
        for user in users:
            if len(self._message(user, online)) > self._most_bytes:
                log.warning("a message about presence would be over SSE_MAX_MESSAGE_BYTES", user=user)
                continue
            self._waiting.pop(user, None)
            self._waiting[user] = online
            self._some.set()

    def hold(self) -> None:
        """Redis was away: wait for the other nodes."""
        self._not_before = trio.current_time() + SETTLE_SECONDS

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff()
        while True:
            await self._some.wait()
            await trio.sleep_until(self._not_before)
            batch = list(islice(self._waiting.items(), BATCH))
            try:
                await self._publisher.publish([self._message(*one) for one in batch], None)
            except UnavailableError as error:
                log.debug("not told who is online, trying again", problem=str(error))
                await trio.sleep(backoff.seconds())
                continue
            backoff.reset()
            for user, online in batch:
                self._counters.presence_online += online
                self._counters.presence_offline += not online
                if self._waiting[user] == online:
                    del self._waiting[user]
            if not self._waiting:
                self._some = trio.Event()

    def _message(self, user: str, online: bool) -> bytes:
        message = {"user_id": user, "online": online}
        return json.dumps({"topic": self._topic, "event": EVENT, "message": message}).encode()
