"""Messages that come over HTTP → Redis, all or none, so that every node gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import trio
import trio_asyncio
from redis.exceptions import MovedError, ResponseError

from trio_sse.broker.errors import ReplicaError, advice
from trio_sse.broker.link import ERRORS, answer_within, call, open_link, replicates
from trio_sse.broker.source import AnySubscriber
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.receipts import Receipt
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0
DELIVERY_SECONDS = 1.0
"""How long an answer waits until the messages are back from Redis and dispatched. Then it is given without
receipts."""
IDEMPOTENCY_SECONDS = 24 * 3600
_AT_ONCE = 16

# One script, so that all of it happens or nothing, even if Redis or the network fails.
_SCRIPT = b"""
local kind, target, length, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key = KEYS[kind == 'stream' and 2 or 1]
if key then
  local seen = redis.call('GET', key)
  if seen then return {1, seen} end
end
local function keep(told)
  if key then redis.call('SET', key, told, 'EX', ARGV[5]) end
end
-- Kept before anything is published: where that cannot be written, nothing is.
keep(fingerprint)
local ids = {}
for i = 6, #ARGV do
  local answer
  if kind == 'stream' then
    answer = redis.pcall('XADD', target, 'MAXLEN', '~', length, '*', 'payload', ARGV[i])
    ids[#ids + 1] = answer
  else
    answer = redis.pcall('PUBLISH', target, ARGV[i])
  end
  if type(answer) == 'table' and answer.err then
    if key then redis.call('DEL', key) end
    return answer
  end
end
local told = fingerprint .. ' ' .. table.concat(ids, ' ')
if kind == 'stream' then keep(told) end
return {0, told}
"""


class UnavailableError(Exception):
    """Redis did not accept the messages, or did not answer whether it did (`unsure`). The text is fit for a
    log line."""

    def __init__(self, text: str, *, unsure: bool) -> None:
        super().__init__(text)
        self.unsure = unsure


class ConflictError(Exception):
    """The Idempotency-Key was used with other messages."""


class Published(NamedTuple):
    """A message in Redis: its id, and its receipt on this node. Each is None if not known."""

    id: str | None
    receipt: Receipt | None


class Publisher:
    """Publishes to the log if there is one, else to the channel."""

    def __init__(self, settings: Settings, hub: Hub, subscriber: AnySubscriber) -> None:
        self._settings = settings
        self._hub = hub
        self._subscriber = subscriber
        self._turns = trio.CapacityLimiter(_AT_ONCE)

    async def publish(
        self, payloads: Sequence[bytes], key: str | None, token: str = ""
    ) -> tuple[list[Published], bool]:
        """Publish all of `payloads`. Returns the outcome of each, and whether the holder of `token` had
        published them before with the same Idempotency-Key `key`: then nothing is published now.

        Raises UnavailableError or ConflictError. After a cancellation it is not known whether Redis has them.
        """
        receipts = [self._hub.receipts.expect(payload) for payload in payloads]
        try:
            async with self._turns:
                repeated, told = await self._send(payloads, key and _own(key, token))
            fingerprint, *entries = told.split()
            if repeated and fingerprint != _fingerprint(payloads):
                raise ConflictError
            ids: list[str | None] = [*entries] or [None] * len(payloads)
            if not repeated:
                with trio.move_on_after(DELIVERY_SECONDS):
                    for receipt in receipts:
                        await receipt.done.wait()
        finally:
            for payload, receipt in zip(payloads, receipts, strict=True):
                self._hub.receipts.forget(payload, receipt)
        return [
            Published(id or receipt.id, receipt if receipt.done.is_set() else None)
            for id, receipt in zip(ids, receipts, strict=True)  # noqa: A001
        ], repeated

    async def _send(self, payloads: Sequence[bytes], key: str | None) -> tuple[bool, str]:
        loop = self._subscriber.loop
        if loop is None:
            raise UnavailableError("not connected to Redis yet", unsure=False)
        send = trio_asyncio.aio_as_trio(self._evaluate, loop=loop)
        try:
            try:
                answer: tuple[bool, str] = await send(payloads, key)
            except MovedError as elsewhere:
                # Any node of a cluster publishes to all, but each key is on one node.
                answer = await send(payloads, key, elsewhere.node_addr)
        except ERRORS as error:
            text = f"Redis at {self._settings.redis_address}: {advice(error, self._settings)}"
            raise UnavailableError(text, unsure=not isinstance(error, ResponseError | ReplicaError)) from None
        return answer

    async def _evaluate(
        self, payloads: Sequence[bytes], key: str | None, at: tuple[str, int] | None = None
    ) -> tuple[bool, str]:
        settings = self._settings
        kind, target, keys, slot = "channel", settings.redis_channel, [], ""
        if settings.redis_stream is not None:
            kind, target = "stream", settings.redis_stream
            keys, slot = [target], _hash_tag(target)
        if key is not None:
            keys.append(_redis_key(target, key, slot))
        async with (
            open_link(settings, database=bool(keys), at=at) as link,
            answer_within(ANSWER_SECONDS),
        ):
            if (master := await replicates(link)) is not None:
                raise ReplicaError(master)
            repeated, told = await call(
                link,
                "EVAL",
                _SCRIPT,
                len(keys),
                *keys,
                kind,
                target,
                settings.stream_length,
                _fingerprint(payloads),
                IDEMPOTENCY_SECONDS,
                *payloads,
            )
        return bool(repeated), told.decode()


def _own(key: str, token: str) -> str:
    """The key together with its token: the holder of another token can neither use nor probe it."""
    return f"{hashlib.sha256(token.encode()).hexdigest()} {key}"


def _redis_key(target: str, key: str, slot: str) -> str:
    return f"trio_sse:idempotency:{slot}{hashlib.sha256(f'{target} {key}'.encode()).hexdigest()}"


def _hash_tag(log_key: str) -> str:
    """A hash tag that puts a key into the cluster slot of the log (Redis Cluster specification, "Hash tags"),
    as a script may use keys of one slot only. Empty if the log's name allows none."""
    tag, closed, _ = log_key.partition("{")[2].partition("}")
    if not (tag and closed):
        tag = "" if "}" in log_key else log_key
    return f"{{{tag}}}:" if tag else ""


def _fingerprint(payloads: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(payloads)).hexdigest()
