"""Messages → one Redis, all or none. asyncio only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from redis.exceptions import MovedError, ResponseError

from trio_sse.broker.cluster_map import redirected
from trio_sse.broker.errors import PartlyError, ReplicaError
from trio_sse.broker.link import answer_within, call, open_link, replicates
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0
IDEMPOTENCY_SECONDS = 24 * 3600

Copy = tuple[bytes, bytes]
"""The channel, or the key of the log, and a payload for it."""

_PARTLY = 2

# One script, so that all of it happens or nothing, even if Redis or the network fails.
_SCRIPT = b"""
local kind, length, fingerprint = ARGV[1], ARGV[2], ARGV[3]
local key = KEYS[kind == 'stream' and 2 or 1]
if key then
  local seen = redis.call('GET', key)
  if seen then return {1, seen} end
end
local function keep(told)
  if key then redis.call('SET', key, told, 'EX', ARGV[4]) end
end
-- Kept before anything is published: where that cannot be written, nothing is.
keep(fingerprint)
local ids = {}
for i = 5, #ARGV, 2 do
  local answer
  if kind == 'stream' then
    answer = redis.pcall('XADD', ARGV[i], 'MAXLEN', '~', length, '*', 'payload', ARGV[i + 1])
    ids[#ids + 1] = answer
  else
    answer = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
  end
  if type(answer) == 'table' and answer.err then
    if key then redis.call('DEL', key) end
    if i == 5 then return answer end
    return {2, answer.err}
  end
end
local told = fingerprint .. ' ' .. table.concat(ids, ' ')
if kind == 'stream' then keep(told) end
return {0, told}
"""


class Sender:
    """Publishes with a script, over a link of its own for each call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def send(self, copies: Sequence[Copy], key: str | None, fingerprint: str) -> tuple[bool, str]:
        """Publish all, unless that was done before with this Idempotency-Key `key`. Returns whether it was,
        and the fingerprint that was given then, or is now, with the ids of the log's entries behind it.
        Raises one of link.ERRORS. A ResponseError means that nothing was published."""
        try:
            return await self._evaluate(copies, key, fingerprint, None)
        except MovedError as elsewhere:
            # Any node of a cluster publishes to all, but each key is on one node.
            return await self._evaluate(copies, key, fingerprint, redirected(elsewhere, None))

    async def _evaluate(
        self, copies: Sequence[Copy], key: str | None, fingerprint: str, at: tuple[str, int] | None
    ) -> tuple[bool, str]:
        settings = self._settings
        kind, target, keys, slot = "channel", settings.redis_channel, [], ""
        if settings.redis_stream is not None:
            kind, target = "stream", settings.redis_stream
            keys, slot = [target], _hash_tag(target)
        if key is not None:
            keys.append(idempotency_key(target, key, slot))
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
                settings.stream_length,
                fingerprint,
                IDEMPOTENCY_SECONDS,
                *[part for copy in copies for part in copy],
            )
            if repeated == _PARTLY:  # an ACL that allows one of the channels and not another
                raise PartlyError(ResponseError(told.decode()))
        return bool(repeated), told.decode()


def idempotency_key(target: str, key: str, slot: str = "") -> str:
    """The key in Redis. `slot` is a hash tag, or empty."""
    return f"trio_sse:idempotency:{slot}{hashlib.sha256(f'{target} {key}'.encode()).hexdigest()}"


def _hash_tag(log_key: str) -> str:
    """A hash tag that puts a key into the cluster slot of the log (Redis Cluster specification, "Hash tags"),
    as a script may use keys of one slot only. Empty if the log's name allows none."""
    tag, closed, _ = log_key.partition("{")[2].partition("}")
    if not (tag and closed):
        tag = "" if "}" in log_key else log_key
    return f"{{{tag}}}:" if tag else ""
