"""Messages → entries of a log in partitions: their keys, the commands that add them, and their ids. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from trio_sse.broker.post import Order
from trio_sse.broker.sender import IDEMPOTENCY_SECONDS, Copy, hash_tag, idempotency_key
from trio_sse.delivery.event_ids import EntryId, entry_id
from trio_sse.delivery.messages import Notification
from trio_sse.delivery.notices import GAP
from trio_sse.delivery.partitions import Layout, Partition, part_text, place_text
from trio_sse.settings import Settings

ROUTED = 10_000
"""Entries of another log that a partition knows it has. Far more than members of its consumer group take at a
time."""

_ONCE = b"""
local told = redis.call('GET', KEYS[2])
if told then return told end
-- Kept before anything is added: where that cannot be written, nothing is.
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
told = ARGV[1]
for i = 4, #ARGV do
  local id = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'payload', ARGV[i])
  if type(id) == 'table' then
    redis.call('DEL', KEYS[2])
    return id
  end
  told = told .. ' ' .. id
end
redis.call('SET', KEYS[2], told, 'EX', ARGV[2])
return told
"""

_ROUTE = b"""
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return '' end
-- The oldest leave: the score is the time in the id.
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[3])
local id = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'payload', ARGV[5])
if type(id) == 'table' then redis.call('ZREM', KEYS[2], ARGV[1]) end
return id
"""


class Entries:
    """The partitions that are written to: SSE_REDIS_STREAM in SSE_STREAM_PARTITIONS keys. Not those that it
    replaces."""

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(*settings.stream_layouts[0])
        self._length = settings.stream_length

    @property
    def name(self) -> str:
        """What tells these partitions from any others."""
        return f"{self.layout.key}/{self.layout.partitions}"

    def numbers(self, notification: Notification) -> list[int]:
        """The partitions that have a message."""
        return self.layout.numbers(notification.targets)

    def copies(self, notification: Notification, payload: bytes) -> list[Copy]:
        """Key and payload of each entry that a message is: the same in each partition."""
        return [(self.layout.name(number).encode(), payload) for number in self.numbers(notification)]

    def place(self, numbers: Iterable[int], ids: Iterable[str]) -> str:
        """The id of a message, by those of its entries: the place behind it."""
        partitions = [Partition(self.layout.partitions, number) for number in numbers]
        parts = [
            (partition, part_text(partition, entry_id(id)))
            for partition, id in zip(partitions, ids, strict=True)  # noqa: A001
        ]
        return place_text(parts, published=True)

    def order(self, copy: Copy) -> Order:
        """What adds an entry. Redis answers its id."""
        key, payload = copy
        return Order(key, ("XADD", key, "MAXLEN", "~", self._length, "*", "payload", payload))

    def once(self, key: bytes, payloads: Iterable[bytes], idempotency: str, fingerprint: str) -> Order:
        """What adds entries to one partition, all or none, unless that was done before with this key. Redis
        answers the fingerprint that was given then, or is now, and their ids behind it."""
        # By its hash tag in the slot of the partition, as a script may use keys of one slot only.
        done = idempotency_key(self.name, idempotency, hash_tag(key.decode()))
        common = (fingerprint, IDEMPOTENCY_SECONDS, self._length)
        return Order(key, ("EVAL", _ONCE, 2, key, done, *common, *payloads))

    def routed(self, copy: Copy, once: str, number: EntryId) -> Order:
        """What adds an entry that is `number` in another log, unless the partition has one with this `once`:
        a bridge takes it up again where another one died. Redis answers its id, or nothing."""
        key, payload = copy
        ours = hashlib.sha256(self.name.encode()).hexdigest()[:32]
        known = f"trio_sse:routed:{hash_tag(key.decode())}{ours}"
        return Order(key, ("EVAL", _ROUTE, 2, key, known, once, number[0], ROUTED, self._length, payload))

    def gaps(self) -> Iterator[Order]:
        """What tells all streams, in each partition, that messages may be missing."""
        for number in self.layout.numbers(None):
            yield self.order((self.layout.name(number).encode(), GAP))
