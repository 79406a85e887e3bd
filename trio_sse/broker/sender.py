"""Messages → one Redis, all or none. asyncio only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from redis.exceptions import MovedError, ResponseError

from trio_sse.broker.cluster_map import redirected
from trio_sse.broker.errors import PartlyError, ReplicaError
from trio_sse.broker.link import answer_within, call, open_link, replicates
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0
IDEMPOTENCY_SECONDS = 24 * 3600

Copy = tuple[bytes, bytes]
"""The channel, or the key of the log or of its partition, and a payload for it."""

_PARTLY = 2

# One script, so that all of it happens or nothing, even if Redis or the network fails.
_SCRIPT = b"""
local kind, length, fingerprint = ARGV[1], ARGV[2], ARGV[3]
local key = KEYS[ARGV[5] + 1]
if key then
  local seen = redis.call('GET', key)
  if seen then return {1, seen} end
end
local function keep(told)
  if key then redis.call('SET', key, told, 'EX', ARGV[4]) end
end
-- Kept before anything is published: where that cannot be written, nothing is.
keep(fingerprint)
local ids, payload = {}, nil
for i = 6, #ARGV, 2 do
  local answer
  if ARGV[i + 1] ~= '' then payload = ARGV[i + 1] end
  if kind == 'stream' then
    answer = redis.pcall('XADD', ARGV[i], 'MAXLEN', '~', length, '*', 'payload', payload)
    ids[#ids + 1] = answer
  else
    answer = redis.pcall('PUBLISH', ARGV[i], payload)
  end
  if type(answer) == 'table' and answer.err then
    if key then redis.call('DEL', key) end
    if i == 6 then return answer end
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
        kind, target, logs, slot = "channel", settings.redis_channel, list[str | bytes](), ""
        if settings.partitioned:
            kind, target = "stream", f"{settings.redis_stream}/{settings.stream_partitions}"
            logs += dict.fromkeys(name for name, _ in copies)
        elif settings.redis_stream is not None:
            kind, target = "stream", settings.redis_stream
            logs, slot = [target], hash_tag(target)
        keys = [*logs] if key is None else [*logs, idempotency_key(target, key, slot)]
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
                len(logs),
                *_briefly(copies),
            )
            if repeated == _PARTLY:  # an ACL that allows one of the channels and not another
                raise PartlyError(ResponseError(told.decode()))
        return bool(repeated), told.decode()


def _briefly(copies: Sequence[Copy]) -> Iterator[bytes]:
    """Name and payload of each, the payload empty where it is that of the copy before."""
    before = b""
    for name, payload in copies:
        yield from (name, b"" if payload is before else payload)
        before = payload


def idempotency_key(target: str, key: str, slot: str = "") -> str:
    """The key in Redis. `slot` is a hash tag, or empty."""
    return f"trio_sse:idempotency:{slot}{hashlib.sha256(f'{target} {key}'.encode()).hexdigest()}"


def hash_tag(log_key: str) -> str:
    """A hash tag that puts a key into the cluster slot of the log (Redis Cluster specification, "Hash tags"),
    as a script may use keys of one slot only. Empty if the log's name allows none."""
    tag, closed, _ = log_key.partition("{")[2].partition("}")
    if not (tag and closed):
        tag = "" if "}" in log_key else log_key
    return f"{{{tag}}}:" if tag else ""
