"""Numbered messages by the channel and by the stream, and two clients that must miss none of theirs."""

from __future__ import annotations

import contextlib
import json
import random
import urllib.parse
from collections import deque
from collections.abc import Iterator
from typing import Any

import redis
import trio

from tests.support.client import Event, Stream, linger_none, streaming

TICK_SECONDS = 0.02
STREAM_ENTRIES = 1000
"""How long the Redis stream is kept."""
SOURCES = ("channel", "stream")
CROWD_USERS = tuple(f"u{number}" for number in range(10))


class Numbered:
    """Looks whether the messages of each source come in order, once each, and all of them unless a `gap`
    said before that some are missing."""

    def __init__(self) -> None:
        self.seen = 0
        self.gaps = 0
        self._expected: dict[str, int] = {}
        self._excused: set[str] = set()

    def see(self, event: Event) -> None:
        if event.name == "gap":
            self.gaps += 1
            self._excused.update(SOURCES)
        elif event.name == "message" and event.json["user_id"] != "*":
            by, number = event.json["by"], event.json["n"]
            expected = self._expected.get(by, number)
            assert number == expected or (number > expected and by in self._excused), (
                f"{number} of the {by} where {expected} was due"
            )
            self._expected[by] = number + 1
            self._excused.discard(by)
            self.seen += 1


class Flow:
    """What is published while clients come and go. `run` until cancelled."""

    def __init__(self, port: int, redis_port: int, channel: str, stream: str, chance: random.Random) -> None:
        self.canary = Numbered()
        """Stays all the time."""
        self.returning = Numbered()
        """Leaves and comes back with the id it has."""
        self.published = 0
        self.ids: deque[str] = deque(maxlen=2000)
        """The latest that the canary saw."""
        self._port = port
        self._redis = redis.Redis(port=redis_port, db=1)
        self._channel = channel
        self._stream = stream
        self._chance = chance

    async def run(self) -> None:
        with contextlib.closing(self._redis):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish)
                nursery.start_soon(self._stay)
                nursery.start_soon(self._come_back)

    async def _publish(self) -> None:
        """Numbers are those of the ticks: the canary and the one who comes back get one at each."""
        for number, payloads in enumerate(self._messages()):
            pipeline = self._redis.pipeline(transaction=False)
            for payload in payloads:
                for source in SOURCES:
                    data = json.dumps({**payload, "by": source, "n": number})
                    if source == "channel":
                        pipeline.publish(self._channel, data)
                    else:
                        pipeline.xadd(self._stream, {"payload": data}, maxlen=STREAM_ENTRIES)
            pipeline.execute()
            self.published += 2 * len(payloads)
            await trio.sleep(TICK_SECONDS)

    def _messages(self) -> Iterator[list[dict[str, object]]]:
        """For each tick: what is published by either source."""
        tick = 0
        while True:
            tick += 1
            someone = self._chance.choice(CROWD_USERS)
            some: list[dict[str, object]] = [{"user_id": user} for user in ("canary", "returning", someone)]
            if tick % 5 == 0:
                some.append({"user_id": "big", "message": "x" * self._chance.randrange(20_000, 60_000)})
                some.append({"user_id": [someone, f"never seen before {self._chance.random()}"]})
                some.append({"user_id": "*"})
            yield some

    async def _stay(self) -> None:
        async with streaming(self._port, "canary") as stream:
            while True:
                event = await stream.event()
                self.ids.append(event.id)
                self.canary.see(event)
                assert event.name != "gap", event  # it reads, and Redis was never away

    async def _come_back(self) -> None:
        last_id: str | None = None
        while True:
            async with coming_back(self._port, "returning", last_id, self._chance) as stream:
                last_id = stream.connected.id or last_id
                with trio.move_on_after(self._chance.uniform(0.05, 0.8)):
                    while True:
                        event = await stream.event()
                        self.returning.see(event)
                        last_id = event.id or last_id
                leave(stream.transport, self._chance)
            await trio.sleep(self._chance.choice((0.0, 0.1, 0.5, 1.0, 4.0)))


def coming_back(
    port: int, user: str, last_event_id: str | None, chance: random.Random
) -> contextlib.AbstractAsyncContextManager[Stream]:
    """A stream that goes on after an id, given in the header or in the query."""
    if last_event_id is None:
        return streaming(port, user)
    if chance.randrange(2):
        value: Any = last_event_id.strip().encode()  # as bytes: h11 encodes no text but ASCII
        return streaming(port, user, headers=[("last-event-id", value)])
    return streaming(port, f"{user}&last_event_id={urllib.parse.quote(last_event_id)}")


def leave(transport: trio.SocketStream, chance: random.Random) -> None:
    """Make the closing that follows a FIN or an RST."""
    if chance.randrange(2):
        linger_none(transport.socket)
