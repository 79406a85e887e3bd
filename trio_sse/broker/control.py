"""Processes ask each other, and give each other commands, by a channel of Redis: for SSE_ADMIN_TOKEN."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import trio
import trio_asyncio
from redis.exceptions import ResponseError

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.cluster_map import Address, ClusterMap
from trio_sse.broker.envelopes import ANSWER, EnvelopeError, Envelopes, Message
from trio_sse.broker.errors import advice, of_redis
from trio_sse.broker.feed import keep_pinging
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.link import CONNECT_SECONDS, ERRORS, Link, answer_within, call, open_link
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.control")

ANSWER_SECONDS = 2.0
"""How long an answer of the other processes is waited for."""

BEAT_SECONDS = 3.0
"""How often a process says that it is there, about."""

LIFE_SECONDS = 12.0
"""One that has said nothing for so long is gone."""

FAREWELL_SECONDS = 0.5
MOST_AT_ONCE = 32
REPORT_SECONDS = 10.0


class Node(msgspec.Struct, frozen=True):
    """A process of the service."""

    process: str
    host: str
    pid: int


class Heard(msgspec.Struct):
    """What the others answered."""

    answers: list[tuple[Node, msgspec.Raw]]
    missing: list[Node]
    """Those who are there and gave no answer in time."""
    problem: str | None = None
    """Why nobody could be asked, fit for a log line."""


class _Question:
    """Somebody who waits for answers."""

    def __init__(self, expected: dict[str, Node]) -> None:
        self.expected = expected
        self.answers: dict[str, msgspec.Raw] = {}
        self.complete = asyncio.Event()

    def take(self, sender: str, what: msgspec.Raw) -> None:
        if sender in self.expected:
            self.answers[sender] = what
            if len(self.answers) == len(self.expected):
                self.complete.set()


Obey = Callable[[str, msgspec.Raw], Awaitable[object]]
"""Does what a command of this kind says, and returns the answer. Runs in Trio."""


def keys_of(channel: str) -> str:
    """How the keys begin that belong to a control channel: all in one slot."""
    return f"trio_sse:control:{{{channel}}}:"


async def trial(settings: Settings, links: KeyLinks, mark: str, keep_seconds: int) -> None:
    """Do all that belongs to a control channel, with a key and a channel of its own. asyncio only. Raises one
    of ERRORS."""
    key = f"{keys_of(settings.redis_channel)}{mark}".encode()
    await links.call(key, "ZADD", key, 1, "a")
    await links.call(key, "EXPIRE", key, keep_seconds)
    await links.call(key, "ZSCORE", key, "a")
    await links.call(key, "ZRANGEBYSCORE", key, 0, 1)
    await links.call(key, "ZCARD", key)
    await links.call(key, "ZREMRANGEBYSCORE", key, 0, 0)
    await links.call(key, "ZREM", key, "a")
    channel = f"{settings.redis_channel}:control"
    async with open_link(settings) as link, answer_within(CONNECT_SECONDS):
        for command in (
            ("TIME",),
            ("PUBLISH", f"{channel}:{mark}", ""),
            ("SUBSCRIBE", channel),
            ("SUBSCRIBE", f"{channel}:{mark}"),
        ):
            await call(link, *command)


class Control:
    """The control channel `<SSE_REDIS_CHANNEL>:control`, and for answers to this process one of its own below
    it. `beside` runs at each beat with a working link, in asyncio, and raises one of ERRORS; `lost` is called
    when Redis is.

    In a cluster both are channels of the old kind, which reach all nodes.
    """

    def __init__(
        self,
        settings: Settings,
        process: str,
        cluster: ClusterMap | None,
        obey: Obey,
        beside: Callable[[], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        assert settings.admin_token is not None
        self.me = Node(process, socket.gethostname(), os.getpid())
        self.links = KeyLinks(settings, cluster)
        self.keys = keys_of(settings.redis_channel)
        """How the keys begin that belong to it: all in one slot."""
        self._settings = settings
        self._obey = obey
        self._beside = beside
        self._lost = lost
        self._nodes = f"{self.keys}nodes".encode()
        self._member = msgspec.json.encode(self.me)
        self._channel = f"{settings.redis_channel}:control"
        self._offset = 0.0  # of the clock of Redis
        self._envelopes = Envelopes(settings.admin_token.get_secret_value(), process, self.now)
        told = f"Redis at {settings.redis_address}: "
        self._attempts = Attempts(
            settings,
            settings.redis_address,
            lambda error: told + advice(error, settings, rights="SSE_ADMIN_TOKEN"),
            purpose="control channel",
        )
        self._seeds = itertools.cycle([(one.host, one.port) for one in settings.cluster_servers] or [None])
        self._at: Address | None = None
        self._up = False
        self._asked: dict[str, _Question] = {}
        self._obeying: set[asyncio.Task[None]] = set()
        self._log_limit = LogLimit(REPORT_SECONDS)
        self._loop: asyncio.AbstractEventLoop | None = None

    def now(self) -> float:
        """Seconds since 1970, by the clock of Redis."""
        return time.time() + self._offset

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Counts as started after the first attempt, whatever its outcome."""
        async with trio_asyncio.open_loop() as self._loop:
            self._attempts.tried = task_status.started
            try:
                await trio_asyncio.aio_as_trio(self._attempts.run)(self._serve)
            finally:
                with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await trio_asyncio.aio_as_trio(self._farewell)()
                self._loop = None

    async def ask(self, kind: str, what: object, seconds: float = ANSWER_SECONDS) -> Heard:
        """Give all others a command, and wait for their answers, so many seconds at most. Never raises one of
        ERRORS."""
        if self._loop is None:
            return Heard([], [], "Redis was not tried yet")
        heard: Heard = await trio_asyncio.aio_as_trio(self._ask, loop=self._loop)(kind, what, seconds)
        return heard

    async def call(self, *commands: tuple[str | int | bytes, ...]) -> list[Any]:
        """The answers to commands on a key of `keys`, which is the first argument of each. In Trio. Raises
        one of ERRORS."""
        if self._loop is None:
            raise ConnectionError("Redis was not tried yet")
        found: list[Any] = await trio_asyncio.aio_as_trio(self.call_here, loop=self._loop)(*commands)
        return found

    async def call_here(self, *commands: tuple[str | int | bytes, ...]) -> list[Any]:
        """As `call`, in asyncio."""
        answers = []
        for command in commands:
            key = command[1]
            assert isinstance(key, bytes)
            answers.append(await self.links.call(key, *command))
        return answers

    def problem(self, error: BaseException) -> str:
        """One of ERRORS as one line that names the setting to look at."""
        return of_redis(error, self._settings)

    async def _ask(self, kind: str, what: object, seconds: float) -> Heard:
        if not self._up:
            return Heard([], [], self._attempts.problem)
        nonce, payload = self._envelopes.command(kind, what)
        try:
            async with asyncio.timeout(seconds):
                question = _Question({node.process: node for node in await self._others()})
                self._asked[nonce] = question
                if question.expected:
                    await self._publish(self._channel, payload)
                    await question.complete.wait()
        except TimeoutError:
            question = self._asked.get(nonce) or _Question({})
            if not question.expected:
                return Heard([], [], f"Redis at {self._settings.redis_address} does not answer")
        except ERRORS as error:
            return Heard([], [], self.problem(error))
        finally:
            self._asked.pop(nonce, None)
        expected, answers = question.expected, question.answers
        return Heard(
            [(expected[name], what) for name, what in answers.items()],
            [node for name, node in expected.items() if name not in answers],
        )

    async def _others(self) -> list[Node]:
        """All living processes but this one. Raises one of ERRORS."""
        (found,) = await self.call_here(("ZRANGEBYSCORE", self._nodes, f"{self.now():.3f}", "+inf"))
        nodes = [msgspec.json.decode(member, type=Node) for member in found]
        return [node for node in nodes if node.process != self.me.process]

    async def _publish(self, channel: str, payload: bytes) -> None:
        (answer,) = await self.links.calls(self._at, [("PUBLISH", channel, payload)])
        if isinstance(answer, Exception):
            raise answer

    async def _serve(self) -> None:
        """Raises one of ERRORS, or a group of them."""
        self._at = next(self._seeds)
        try:
            async with open_link(self._settings, at=self._at) as link:
                await self._beat()
                async with answer_within(CONNECT_SECONDS):
                    await link.send_command("SUBSCRIBE", self._channel, f"{self._channel}:{self.me.process}")
                    for _ in range(2):
                        await link.read_response()
                if not (self._attempts.first or self._attempts.succeeded):
                    log.info("the control channel is there again")
                self._up = True
                self._attempts.success()
                answered = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(keep_pinging(link, answered))
                    tasks.create_task(self._keep_beating())
                    await self._read(link, answered, tasks)
        finally:
            self._up = False
            self._lost()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  jitter, not a secret
            await self._beat()

    async def _beat(self) -> None:
        """Say that this process is there, and learn what is new. Raises one of ERRORS."""
        before = time.time()
        (clock,) = await self.links.calls(self._at, [("TIME",)])
        if isinstance(clock, Exception):
            raise clock
        self._offset = int(clock[0]) + int(clock[1]) / 1e6 - (before + time.time()) / 2
        now = self.now()
        await self.call_here(
            ("ZADD", self._nodes, f"{now + LIFE_SECONDS:.3f}", self._member),
            ("ZREMRANGEBYSCORE", self._nodes, "-inf", f"({now:.3f}"),
            ("EXPIRE", self._nodes, int(10 * LIFE_SECONDS)),
        )
        await self._beside()

    async def _read(self, link: Link, answered: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        while True:
            try:
                response = await link.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except ResponseError as error:
                log.warning("the control channel is refused", problem=self.problem(error))
                raise
            answered.set()
            if type(response) is list and len(response) == 3 and response[0] == b"message":
                self._receive(response[2], tasks)

    def _receive(self, payload: Any, tasks: asyncio.TaskGroup) -> None:
        try:
            message = self._envelopes.open(payload if type(payload) is bytes else b"")
        except EnvelopeError as error:
            if (unlogged := self._log_limit.passed()) is not None:
                log.warning("a command is not obeyed", problem=str(error), unlogged=unlogged)
            return
        if message.sender == self.me.process:
            return
        if message.kind == ANSWER:
            if (question := self._asked.get(message.nonce)) is not None:
                question.take(message.sender, message.what)
        elif len(self._obeying) < MOST_AT_ONCE:  # else whoever asks is told that this one did not answer
            task = tasks.create_task(self._answer(message))
            self._obeying.add(task)
            task.add_done_callback(self._obeying.discard)

    async def _answer(self, message: Message) -> None:
        told = await trio_asyncio.trio_as_aio(self._obey)(message.kind, message.what)
        answer = self._envelopes.answer(message.nonce, told)
        await self._publish(f"{self._channel}:{message.sender}", answer)

    async def _farewell(self) -> None:
        try:
            if self._attempts.succeeded:
                await self.call_here(("ZREM", self._nodes, self._member))
        except ERRORS:  # it counts as gone in LIFE_SECONDS
            pass
        finally:
            await self.links.close()
