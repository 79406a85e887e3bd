"""Clients that come and go in every way there is."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import h11
import trio

from tests.support.client import Stream, connect, streaming
from tests.support.flow import CROWD_USERS, Flow, coming_back, leave
from tests.support.hostile import GET_HEALTH, GET_SSE, attacks, launch

LEFT_OR_CUT = (trio.BrokenResourceError, h11.RemoteProtocolError)
"""How it ends for clients that deserve no better."""

GET_BIG = GET_SSE.replace(b"=x", b"=big")
"""Of the user who gets large messages."""


class Churn:
    """One crowd of clients of one service, among the messages of `flow`. `run` until cancelled."""

    def __init__(self, port: int, flow: Flow, seed: int, chance: random.Random) -> None:
        self.flow = flow
        self.kinds: Counter[str] = Counter()
        """How many clients there were of each kind."""
        self._port = port
        self._chance = chance
        self._attacks = attacks(seed, 10**9)

    @property
    def clients(self) -> int:
        return self.kinds.total()

    async def run(self, crowd: int) -> None:
        """A crowd of that many clients at any time, and messages, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flow.run)
            for _ in range(crowd):
                nursery.start_soon(self._come_and_go)

    async def _come_and_go(self) -> None:
        kinds: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "reads": (self._reads, 4),
            "mid-header": (self._mid_header, 2),
            "mid-message": (self._mid_message, 4),
            "half-close": (self._half_close, 4),
            "never reads": (self._never_reads, 1),
            "known id": (self._known_id, 4),
            "unknown id": (self._unknown_id, 4),
            "garbage id": (self._garbage_id, 4),
            "by Hypercorn": (self._by_hypercorn, 4),
            "asks": (self._asks, 4),
            "hostile": (self._hostile, 4),
        }
        weights = [weight for _, weight in kinds.values()]
        while True:
            [kind] = self._chance.choices(list(kinds), weights)
            await kinds[kind][0]()
            self.kinds[kind] += 1

    async def _reads(self) -> None:
        async with streaming(self._port, self._user()) as stream:
            await self._read_a_while(stream)

    async def _mid_header(self) -> None:
        async with await connect(self._port) as transport:
            head = GET_SSE[: self._chance.randrange(len(GET_SSE))]
            with contextlib.suppress(trio.BrokenResourceError):
                await transport.send_all(head)
                # Rarely longer than the service has patience.
                with trio.move_on_after(self._chance.choice((0.0, 0.1, 0.1, 0.1, 7.0))):
                    await transport.receive_some(1)
            leave(transport, self._chance)

    async def _mid_message(self) -> None:
        async with await connect(self._port, receive_buffer=4096) as transport:
            await transport.send_all(GET_BIG)
            with trio.move_on_after(1), contextlib.suppress(trio.BrokenResourceError):
                for _ in range(self._chance.randrange(1, 30)):
                    await transport.receive_some(1000)
            leave(transport, self._chance)

    async def _half_close(self) -> None:
        async with streaming(self._port, self._user()) as stream:
            await stream.transport.send_eof()
            with contextlib.suppress(*LEFT_OR_CUT):
                await stream.to_the_end()

    async def _never_reads(self) -> None:
        async with await connect(self._port, receive_buffer=2048) as transport:
            await transport.send_all(GET_BIG)
            await trio.sleep(self._chance.uniform(0.2, 4))
            leave(transport, self._chance)

    async def _known_id(self) -> None:
        if self.flow.ids:
            await self._resume(self._chance.choice(self.flow.ids))

    async def _unknown_id(self) -> None:
        process, number = f"{self._chance.getrandbits(48):012x}", self._chance.randrange(10**6)
        milliseconds = self._chance.choice((0, 1, 1_700_000_000_000, 10**19, 10**20 - 1))
        entry = f"{milliseconds}-{self._chance.randrange(3)}"
        known, _, mine = (self.flow.ids[-1] if self.flow.ids else entry).partition("/")
        ids = [f"{process}.{number}", entry, f"{entry}/{process}.{number}", f"{known}/{process}.{number}"]
        if mine:
            ids += [known, mine, f"{entry}/{mine}", f"{known}/{mine}99999"]
        await self._resume(self._chance.choice(ids))

    async def _garbage_id(self) -> None:
        characters = "0123456789abcdef-./ é\u2028" + "".join(map(chr, range(33, 127)))
        await self._resume("".join(self._chance.choices(characters, k=self._chance.randrange(1, 200))))

    async def _by_hypercorn(self) -> None:
        """A stream that is not the first request of its connection."""
        async with await connect(self._port) as transport:
            await transport.send_all(GET_HEALTH + GET_SSE.replace(b"=x", b"=u1"))
            answered = b""
            while b"event: connected" not in answered:
                received = await transport.receive_some(65536)
                assert received, answered
                answered += received
            await trio.sleep(self._chance.uniform(0, 0.3))
            leave(transport, self._chance)

    async def _asks(self) -> None:
        target = self._chance.choice((b"/", b"/healthz", b"/readyz", b"/nothing", b"/sse?user_id="))
        method = self._chance.choice((b"GET", b"HEAD", b"POST", b"OPTIONS"))
        if target.startswith(b"/sse"):
            method = b"HEAD"
        async with await connect(self._port) as transport:
            await transport.send_all(b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target))
            assert (await transport.receive_some(65536)).startswith(b"HTTP/1.1 ")
            leave(transport, self._chance)

    async def _hostile(self) -> None:
        await launch(self._port, next(self._attacks))

    async def _resume(self, last_event_id: str) -> None:
        async with coming_back(self._port, self._user(), last_event_id, self._chance) as stream:
            await self._read_a_while(stream)

    async def _read_a_while(self, stream: Stream) -> None:
        with trio.move_on_after(self._chance.uniform(0, 0.4)):
            while True:
                await stream.event()
        leave(stream.transport, self._chance)

    def _user(self) -> str:
        return self._chance.choice(CROWD_USERS)
