"""What became of a message → the list in Redis that it names in `reply_to`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec
import structlog
import trio
import trio_asyncio
from redis.exceptions import NoPermissionError

from trio_sse.broker.attempts import Backoff
from trio_sse.broker.cluster_map import Address, ClusterMap
from trio_sse.broker.errors import of_redis
from trio_sse.broker.key_links import Command, KeyLinks
from trio_sse.broker.link import ERRORS
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.log_limits import LogLimit
from trio_sse.delivery.messages import name_problem
from trio_sse.delivery.receipts import Receipt
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.replies")

EXPIRE_SECONDS = 600
"""How long a list is kept after its last element."""

MOST_ELEMENTS = 10_000
"""Elements of one list."""

MOST_WAITING = 10_000
"""Elements that may wait for Redis."""

BATCH = 500
GATHER_SECONDS = 0.01
REPORT_SECONDS = 10.0
LAST_SECONDS = 1.0

_SCRIPT = b"""
local has = redis.pcall('LLEN', KEYS[1])
if type(has) ~= 'number' then return -1 end
local room = math.max(0, ARGV[2] - has)
for i = 3, math.min(#ARGV, room + 2) do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return math.min(room, #ARGV - 2)
"""


NO_LIST = -1
"""What is answered if the key is no list, or Redis does not say."""

_REFUSED = -2
_PROBLEMS = {NO_LIST: "that key is no list", _REFUSED: "Redis does not let the service write to it (ACL)"}


class _Answer(msgspec.Struct):
    node: str
    id: str | None
    took: int
    buffered: int
    dropped: int
    streams: int


class Replies:
    """Writes answers for what `hub` delivers, on a link of its own, many at once. Only to lists whose name
    begins with `prefix`: whoever may publish cannot write to other keys.

    While Redis is away MOST_WAITING answers wait; further ones are dropped and counted. If Redis is lost
    while it takes some, they are written again: a list may have an element twice.
    """

    def __init__(
        self, settings: Settings, prefix: str, node: str, cluster: ClusterMap | None, hub: Hub
    ) -> None:
        self._settings = settings
        self._prefix = prefix
        self._node = node
        self._links = KeyLinks(settings, cluster)
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._some = asyncio.Event()
        self._log_limit = LogLimit(REPORT_SECONDS)
        self._well = True
        self._counters = hub.counters
        hub.receipts.answer = self.answer

    def answer(self, receipt: Receipt) -> None:
        """Let the list of a complete receipt know, soon."""
        name = receipt.reply_to or ""
        if not name.startswith(self._prefix) or (problem := name_problem("reply_to", name)):
            problem = "its name does not begin with SSE_REPLY_LISTS"
        if problem:
            self._report(name, problem)
        elif len(self._waiting) >= MOST_WAITING:
            self._counters.replies_dropped += 1
        else:
            took, buffered, dropped = receipt.took, receipt.buffered, receipt.dropped
            streams = took + buffered + dropped
            element = _Answer(self._node, receipt.id, took, buffered, dropped, streams)
            self._waiting.append((name, msgspec.json.encode(element)))
            self._some.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Then what waits is written, if that takes no longer than LAST_SECONDS."""
        async with trio_asyncio.open_loop():
            task_status.started()
            try:
                await trio_asyncio.aio_as_trio(self._write_forever)()
            finally:
                with trio.move_on_after(LAST_SECONDS, shield=True):
                    await trio_asyncio.aio_as_trio(self._last)()

    async def _write_forever(self) -> None:
        backoff = Backoff()
        while True:
            await self._some.wait()
            if await self._write():
                backoff.reset()
                await asyncio.sleep(GATHER_SECONDS)
            else:
                await asyncio.sleep(backoff.seconds())

    async def _last(self) -> None:
        try:
            while self._waiting and await self._write():
                pass
        finally:
            await self._links.close()

    async def _write(self) -> bool:
        """Write a batch. What Redis did not take waits again, behind the others. Returns whether it took
        all."""
        taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if not self._waiting:
            self._some.clear()
        lists: dict[str, list[bytes]] = {}
        for name, element in taken:
            lists.setdefault(name, []).append(element)
        problem: BaseException | None = None
        try:
            homes: dict[Address | None, list[str]] = {}
            for name in list(lists):
                try:
                    homes.setdefault(self._links.address_of(name.encode()), []).append(name)
                except ERRORS as error:
                    problem = error
            for home, names in homes.items():
                try:
                    answers = await self._links.calls(home, [push(name, lists[name]) for name in names])
                except ERRORS as error:
                    problem = error
                    continue
                for name, answer in zip(names, answers, strict=True):
                    written = await self._settled(name, lists[name], answer)
                    if isinstance(written, BaseException):
                        problem = written
                    else:
                        self._count(name, len(lists.pop(name)), written)
        finally:  # also when it is cancelled
            for name, elements in lists.items():
                self._waiting.extend((name, element) for element in elements)
            if self._waiting:
                self._some.set()
        self._say(problem)
        return problem is None

    async def _settled(self, name: str, elements: list[bytes], answer: Any) -> Any:
        """The number of elements that were written, or the error."""
        if not isinstance(answer, Exception):
            return answer
        try:  # it may have moved to another master
            return await self._links.call(name.encode(), *push(name, elements))
        except NoPermissionError:
            return _REFUSED
        except ERRORS as error:
            return error

    def _count(self, name: str, elements: int, written: int) -> None:
        self._counters.replies += max(written, 0)
        self._counters.replies_dropped += elements - max(written, 0)
        if written < elements:
            self._report(name, _PROBLEMS.get(written, f"it has {MOST_ELEMENTS} elements"))

    def _report(self, name: str, problem: str) -> None:
        if (unlogged := self._log_limit.passed()) is not None:
            log.warning("reply_to not answered", list=name[:200], problem=problem, unlogged=unlogged)

    def _say(self, problem: BaseException | None) -> None:
        if problem is not None and self._well:
            text = of_redis(problem, self._settings)
            log.warning("reply_to is not answered, trying again", problem=text)
        elif problem is None and not self._well:
            log.info("reply_to is answered again")
        self._well = problem is None


def push(name: str, elements: list[bytes], keep_seconds: int = EXPIRE_SECONDS) -> Command:
    """The command that adds to a list. It answers how many it added, or NO_LIST."""
    return ("EVAL", _SCRIPT, 1, name.encode(), keep_seconds, MOST_ELEMENTS, *elements)
