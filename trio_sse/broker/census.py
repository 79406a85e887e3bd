"""All processes of the service, in Redis: how many streams each has, and of whom.

Each process writes its own counts and nothing else. One that has written nothing for LIFE_SECONDS counts for
nothing, so those of a dead one vanish.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog
import trio
import trio_asyncio

from trio_sse.broker.attempts import Attempts
from trio_sse.broker.home import Home
from trio_sse.broker.key_links import Command
from trio_sse.broker.link import ERRORS, Link, answer_within, call
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.broker.census")

TELL_SECONDS = 2.0
"""How often a process tells its number of streams, at least."""

LIFE_SECONDS = 10.0
"""A process that has told nothing for so long is gone."""

ANSWER_SECONDS = 2.0
"""How long Redis may take to answer. Then it counts as away."""

LEAVE_SECONDS = 0.5
"""How long the end waits for Redis."""

KEEP_SECONDS = 900
"""How long Redis keeps a count that nobody renews: far longer than RENEW_SECONDS."""

RENEW_SECONDS = 300.0

_AT_ONCE = 500

Key = tuple[str, str]
"""Whose streams are counted: ("user", id) or ("address", address)."""

Verdict = tuple[str, float]
"""Which limit forbids one more stream ("total", "user", "address", "rate"; "away" if Redis did not say; "" if
none does), and for "rate" the seconds to wait."""


class Tally(Protocol):
    """What this process counts."""

    changed: dict[Key, None]
    """Counts that are to be written. Changed by both sides."""

    def __len__(self) -> int:
        """Streams in all."""
        ...

    def count(self, key: Key) -> int:
        """Streams of a user, or of an address."""
        ...

    def keys(self) -> list[Key]:
        """All that have streams."""
        ...

    def reserve(self, user_id: str | None, address: str) -> object:
        """Count a stream that is allowed, before it opens."""
        ...

    def end(self, stream: object) -> None:
        """Count a stream, or what was reserved for one, no more."""
        ...


class Bounds(NamedTuple):
    """Limits over all processes; 0: none."""

    total: int = 0
    per_user: int = 0
    per_address: int = 0
    rate: float = 0


class _Ask:
    """Somebody who waits for a verdict."""

    __slots__ = ("address", "answered", "left", "reservation", "user_id", "verdict")

    def __init__(self, user_id: str | None, address: str) -> None:
        self.user_id = user_id
        self.address = address
        self.answered = trio.Event()
        self.verdict: Verdict = ("away", 0.0)
        self.reservation: object | None = None
        self.left = False


# All that one process has to say and to ask, in one step. KEYS: the living, counts in all; those of ARGV's
# counts; for each one who asks that of the user, of the address, and of the address's rate.
_SCRIPT = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, life, keep, own = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local living, counts = KEYS[1], KEYS[2]
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', living, '-inf', now)) do
  redis.call('ZREM', living, gone)
  redis.call('HDEL', counts, gone)
end
if own == '' then
  redis.call('ZREM', living, me)
  redis.call('HDEL', counts, me)
  return {1, {}, {}}
end
local known = redis.call('ZSCORE', living, me) and 1 or 0
redis.call('ZADD', living, now + life, me)
redis.call('HSET', counts, me, own)
redis.call('PEXPIRE', living, 10 * life)
redis.call('PEXPIRE', counts, 10 * life)
local changes, k = tonumber(ARGV[5]), 3
for i = 6, 5 + changes do
  if ARGV[i] == '0' then
    redis.call('HDEL', KEYS[k], me)
  else
    redis.call('HSET', KEYS[k], me, ARGV[i])
    redis.call('EXPIRE', KEYS[k], keep)
  end
  k = k + 1
end
local function sum(key, of_all)
  local found, total = redis.call('HGETALL', key), 0
  for i = 1, #found, 2 do
    if of_all or redis.call('ZSCORE', living, found[i]) then
      total = total + found[i + 1]
    else
      redis.call('HDEL', key, found[i])
    end
  end
  return total
end
local function one_more(key)
  redis.call('HINCRBY', key, me, 1)
  redis.call('EXPIRE', key, keep)
end
local verdicts, a = {}, 6 + changes
if a <= #ARGV then
  local most, per_user, per_address = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local step, burst = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local total = most > 0 and sum(counts, true)
  for i = a + 5, #ARGV do
    local user, address, rate = KEYS[k], KEYS[k + 1], KEYS[k + 2]
    local has_user = ARGV[i] == '1'
    k = k + 3
    local until_then = step > 0 and tonumber(redis.call('GET', rate) or '0') or 0
    if most > 0 and total >= most then
      verdicts[#verdicts + 1] = 'total'
    elseif per_user > 0 and has_user and sum(user) >= per_user then
      verdicts[#verdicts + 1] = 'user'
    elseif per_address > 0 and sum(address) >= per_address then
      verdicts[#verdicts + 1] = 'address'
    elseif step > 0 and until_then - now > burst then
      verdicts[#verdicts + 1] = 'rate ' .. (until_then - now - burst)
    else
      verdicts[#verdicts + 1] = ''
      if most > 0 then total = total + 1 end
      redis.call('HINCRBY', counts, me, 1)
      if per_user > 0 and has_user then one_more(user) end
      if per_address > 0 then one_more(address) end
      if step > 0 then
        until_then = math.max(until_then, now) + step
        redis.call('SET', rate, string.format('%.0f', until_then), 'PX', math.ceil(until_then - now) + 1000)
      end
    end
  end
end
return {known, redis.call('HGETALL', counts), verdicts}
"""


def trial(channel: str, mark: str, keep_seconds: int) -> tuple[bytes, list[Command]]:
    """A key, and commands at the Redis that has it: all that a census does, to keys of its own."""
    base = f"trio_sse:{{{channel}}}:{mark}:"
    living, counts, one, other, user, address, rate = [base + name for name in "abcdefg"]
    milliseconds = keep_seconds * 100  # both are kept for ten times as long
    begins = (living, counts, one, other, user, address, rate)
    words: list[str | int] = ["me", milliseconds, keep_seconds, 1, 2, 0, 1, *(9, 9, 9, "1", "1"), 1]
    return living.encode(), [
        ("EVAL", _SCRIPT, len(begins), *begins, *words),
        ("EVAL", _SCRIPT, 2, living, counts, "me", "", "", ""),
    ]


class Census:
    """Tells Redis the counts of this process, learns those of all others, and asks whether they have room for
    one more stream.

    `process` is a name that no other process has. `own` counts the streams here; None while it takes no more:
    then it counts for nothing, so that its clients find room elsewhere. With a `tally` there are `bounds`.
    """

    def __init__(
        self,
        settings: Settings,
        process: str,
        own: Callable[[], int | None],
        bounds: Bounds | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._settings = settings
        self._process = process
        self._own = own
        self._bounds = bounds or Bounds()
        self._tally = tally
        self._prefix = f"trio_sse:{{{settings.redis_channel}}}:"  # a hash tag: all keys are in one slot
        self._attempts = Attempts(settings, settings.redis_address, purpose="counts of streams")
        self._home = Home(settings)
        self._asks: deque[_Ask] = deque()
        self._wake = asyncio.Event()
        self._up = False
        self._complete = False  # whether Redis has all counts of this process
        self._renewing: list[Key] = []
        self._counts: dict[str, int] = {}
        self._heard = -1.0
        self._since = -1.0

    @property
    def counts(self) -> dict[str, int] | None:
        """The streams of all living processes, as they were TELL_SECONDS ago at most. None if that is not
        known: while Redis is away, and until all the others have had the time to tell theirs."""
        now = trio.current_time()
        if not self._up or now - self._heard > 2 * TELL_SECONDS or now - self._since < LIFE_SECONDS:
            return None
        return self._counts

    @property
    def process(self) -> str:
        """The name of this process in `counts`."""
        return self._process

    async def ask(self, user_id: str | None, address: str) -> tuple[Verdict, object | None]:
        """Whether all processes together have room for one more stream. If so, it is counted from now on, by
        `Tally.reserve`, of which this returns the result too."""
        one = _Ask(user_id, address)
        if self._up:
            self._asks.append(one)
            self._wake.set()
            try:
                await one.answered.wait()
            except BaseException:
                one.left = True
                if one.reservation is not None and self._tally is not None:  # it was answered just before
                    self._tally.end(one.reservation)
                raise
        return one.verdict, one.reservation

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Counts as started after the first attempt, whatever its outcome."""
        async with trio_asyncio.open_loop():
            self._attempts.tried = task_status.started
            await trio_asyncio.aio_as_trio(self._attempts.run)(self._serve)

    async def _serve(self) -> None:
        """Raises one of ERRORS."""
        await self._home.serve(self._serve_there)

    async def _serve_there(self) -> None:
        """Raises one of ERRORS."""
        try:
            async with self._home.open() as link:
                try:
                    await self._go_on(link)
                except asyncio.CancelledError:
                    await self._withdraw(link)
                    raise
        finally:
            self._up = self._complete = False
            self._answer_all(("away", 0.0))

    async def _go_on(self, link: Link) -> None:
        self._write_all_anew()
        await self._round(link)
        self._up, self._since = True, trio.current_time()
        if not (self._attempts.first or self._attempts.succeeded):
            log.info("streams are counted again")
        self._attempts.success()
        while True:
            much = self._tally is not None and len(self._tally.changed) >= _AT_ONCE
            if self._complete and not self._asks and not much:
                self._wake.clear()
                pause = random.uniform(0.3, 0.5) * TELL_SECONDS  # noqa: S311  jitter, not a secret
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    self._renew(pause)
            await self._round(link)

    def _write_all_anew(self) -> None:
        self._complete = False
        if self._tally is not None:
            self._tally.changed.update(dict.fromkeys(self._tally.keys()))

    def _renew(self, seconds: float) -> None:
        """Have a part of all counts written again, so that Redis goes on keeping them."""
        if self._tally is None:
            return
        if not self._renewing:
            self._renewing = self._tally.keys()
        some = max(1, int(len(self._renewing) * seconds / RENEW_SECONDS))
        self._tally.changed.update(dict.fromkeys(self._renewing[-some:]))
        del self._renewing[-some:]

    async def _round(self, link: Link) -> None:
        """Tell what has changed, and answer who asks. Raises one of ERRORS."""
        own, tally = self._own(), self._tally
        changed: list[tuple[Key, int]] = []
        if tally is not None:
            for key in list(itertools.islice(tally.changed, _AT_ONCE)):
                del tally.changed[key]
                changed.append((key, tally.count(key)))
            own = None if own is None else len(tally)
        asks: list[_Ask] = []
        if own is None:  # whoever asks is sent away in any case
            self._answer_all(("", 0.0))
        elif self._complete:
            asks = [self._asks.popleft() for _ in range(min(_AT_ONCE, len(self._asks)))]
        keys = [self._name("living"), self._name("streams"), *[self._name(*key) for key, _ in changed]]
        words: list[str | int] = [self._process, int(LIFE_SECONDS * 1000), KEEP_SECONDS]
        words += ["" if own is None else own, len(changed), *[count for _, count in changed]]
        if asks:
            words += self._bound_words()
        for one in asks:
            keys += [self._name("user", one.user_id or ""), self._name("address", one.address)]
            keys.append(self._name("rate", one.address))
            words.append(int(one.user_id is not None))
        try:
            async with answer_within(ANSWER_SECONDS):
                known, counts, verdicts = await call(link, "EVAL", _SCRIPT, len(keys), *keys, *words)
        except BaseException:
            for one in asks:
                one.answered.set()
            raise
        self._heard = trio.current_time()
        found = [part.decode() for part in counts]
        self._counts = dict(zip(found[::2], map(int, found[1::2]), strict=True))
        for one, verdict in zip(asks, verdicts, strict=True):
            self._take(one, verdict.decode())
        if not known and self._complete:  # Redis was emptied, or this process was silent for too long
            self._write_all_anew()
        elif tally is None or not tally.changed:
            self._complete = True

    async def _withdraw(self, link: Link) -> None:
        """Count for nothing from now on: clients that come back at other processes find room there."""
        keys = self._name("living"), self._name("streams")
        with contextlib.suppress(*ERRORS):
            async with answer_within(LEAVE_SECONDS):
                await call(link, "EVAL", _SCRIPT, 2, *keys, self._process, "", "", "")

    def _answer_all(self, verdict: Verdict) -> None:
        for one in self._asks:
            one.verdict = verdict
            one.answered.set()
        self._asks.clear()

    def _take(self, one: _Ask, verdict: str) -> None:
        limit, _, milliseconds = verdict.partition(" ")
        one.verdict = limit, float(milliseconds or 0) / 1000
        assert self._tally is not None
        if not limit:
            if not one.left:
                one.reservation = self._tally.reserve(one.user_id, one.address)
            else:
                self._tally.changed[("address", one.address)] = None
                if one.user_id is not None:
                    self._tally.changed[("user", one.user_id)] = None
        one.answered.set()

    def _bound_words(self) -> list[str | int]:
        total, per_user, per_address, rate = self._bounds
        step = 1000 / rate if rate else 0
        burst = max(1.0, rate) * step - step  # the streams that one second allows may come at once
        return [total, per_user, per_address, repr(step), repr(burst)]

    def _name(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)
