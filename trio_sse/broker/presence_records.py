"""The records of presence in Redis: their keys, and the scripts that read and write them.

All keys of a partition are in one slot of a cluster. A record is a field of a hash, and says at which nodes
it is, with how many streams: `<node>=<streams> …`. Whoever makes a field has come, and whoever removes it has
gone: scripts run alone, so each is told once. A record counts while one of its nodes lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from trio_sse.broker.key_links import Command, KeyLinks
from trio_sse.delivery.attendance import GONE, QUIET, TELL, Change, Record
from trio_sse.delivery.targets import Target, topic, topic_name

PREFIX = "trio_sse:presence"

CLAIM_SECONDS = 60
"""How long a node may take to remove the records of a dead one, before another one begins to."""

PAGE = 1000

MOST_IDS = 1000
"""User ids of one topic in an answer."""

_EXACT = 10_000
"""Members of a topic that are looked at one by one while a dead node's are among them."""

# KEYS: nodes, dead, who, epoch. Nodes by the time until which they live; dead ones by the time when somebody
# is to remove what they had.
_BEAT = b"""
local nodes, dead, epoch = KEYS[1], KEYS[2], KEYS[4]
local name, lives, keeps, wait, claim, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', nodes, name)
if not known and fresh == '0' then return {'', 0, {}} end
redis.call('ZADD', nodes, string.format('%.0f', now + lives), name)
local found = redis.call('GET', epoch)
if not found then
  found = ARGV[7]
  redis.call('SET', epoch, found)
end
for _, one in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', string.format('%.0f', now))) do
  local ended = redis.call('ZSCORE', nodes, one)
  redis.call('ZREM', nodes, one)
  redis.call('ZADD', dead, string.format('%.0f', ended + wait), one)
end
local taken = redis.call('ZRANGEBYSCORE', dead, '-inf', string.format('%.0f', now))
for _, one in ipairs(taken) do
  redis.call('ZADD', dead, string.format('%.0f', now + claim), one)
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keeps) end
return {found, 1, taken}
"""

# KEYS: epoch, hashes. ARGV: the node, how long keys are kept, the epoch if it counts; for each hash a number,
# and so often a field, a number of streams and how to tell. With another epoch nothing is done: what the
# node has told is not there, so it would be told again, and who leaves would not.
_WRITE = b"""
local name, keeps, at, told = ARGV[1], ARGV[2], 4, {}
if ARGV[3] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[3] then return {'!'} end
for k = 2, #KEYS do
  local key = KEYS[k]
  local count, fields = tonumber(ARGV[at]), {}
  at = at + 1
  for i = 1, count do fields[i] = ARGV[at + 3 * (i - 1)] end
  local had, set, del = redis.call('HMGET', key, unpack(fields)), {}, {}
  for i = 1, count do
    local field, streams, how = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    at = at + 3
    local nodes, own = {}, false
    for node, number in string.gmatch(had[i] or '', '([^= ]+)=(%d+)') do
      if node == name then own = true else nodes[#nodes + 1] = node .. '=' .. number end
    end
    local alone = #nodes == 0
    if streams ~= '-1' then
      nodes[#nodes + 1] = name .. '=' .. streams
      if alone and (how == 't' and not own or how == 'u') then told[#told + 1] = '+' .. field end
    elseif alone and (how == 't' and own or how == 'u') then
      told[#told + 1] = '-' .. field
    end
    if #nodes == 0 then
      del[#del + 1] = field
    else
      set[#set + 1] = field
      set[#set + 1] = table.concat(nodes, ' ')
    end
  end
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if #del > 0 then redis.call('HDEL', key, unpack(del)) end
  redis.call('PEXPIRE', key, keeps)
end
return told
"""

# KEYS: nodes, dead, who, and the members of topics. ARGV: how many ids, how many members are looked at one by
# one, fields of who.
_READ = b"""
local most, exact = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local lives = {}
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do lives[node] = true end
local well = redis.call('EXISTS', KEYS[2]) == 0 and redis.call('ZCOUNT', KEYS[1], '-inf', now) == 0
local function streams(value)
  local sum = -1
  for node, number in string.gmatch(value or '', '([^= ]+)=(%d+)') do
    if lives[node] then sum = math.max(sum, 0) + number end
  end
  return sum
end
local who = {}
for i = 3, #ARGV do who[i - 2] = streams(redis.call('HGET', KEYS[3], ARGV[i])) end
local topics = {}
for i = 4, #KEYS do
  local size, users, ids, more = redis.call('HLEN', KEYS[i]), 0, {}, 0
  local whole = size <= exact and (size <= most or not well)
  if whole then
    local all = redis.call('HGETALL', KEYS[i])
    for at = 1, #all, 2 do
      if streams(all[at + 1]) >= 0 then
        users = users + 1
        if users <= most then ids[users] = all[at] else more = 1 end
      end
    end
  else
    users, more = size, 1
    local cursor = '0'
    while #ids < most do
      local page = redis.call('HSCAN', KEYS[i], cursor, 'COUNT', 1000)
      cursor = page[1]
      for at = 1, #page[2], 2 do
        if #ids < most and streams(page[2][at + 1]) >= 0 then ids[#ids + 1] = page[2][at] end
      end
      if cursor == '0' then break end
    end
  end
  topics[i - 3] = {users, more, ids}
end
return {who, topics}
"""


class Beat(NamedTuple):
    """What a node learns by saying that it lives."""

    epoch: str
    """Another one: Redis has lost its data."""
    known: bool
    """Whether Redis had this node. If not, and it is not fresh, nothing was done."""
    dead: list[str]
    """Nodes whose records this one is to remove."""


class Told(NamedTuple):
    """Users who have come, and users who have gone."""

    came: list[str]
    gone: list[str]


class Here(NamedTuple):
    """What is known of a user or a topic."""

    streams: int
    """-1: nobody is here. 0: somebody has left just now, and may come back."""
    users: int = 0
    """Of a topic."""
    ids: tuple[str, ...] = ()
    more: bool = False
    """Whether there are more users than `ids`."""


class Records:
    """The records of one partition, of all nodes that have the same `channel`."""

    def __init__(self, links: KeyLinks, channel: str, partition: int, keep_seconds: float) -> None:
        self._links = links
        self._base = f"{PREFIX}:{{p{partition}}}:{channel}"
        self.who = self._key("who")
        """The hash of users and topics. All keys of the partition are where it is."""
        self._keeps = round(keep_seconds * 1000)

    async def beat(self, name: str, lives: float, wait: float, *, epoch: str, fresh: bool) -> Beat:
        """Say that the node lives for so many seconds from now. What a dead one had is removed after `wait`
        seconds more. `epoch` is for a Redis that has none. Raises one of ERRORS."""
        found, known, dead = await self._eval(
            _BEAT,
            [self._key("nodes"), self._key("dead"), self.who, self._key("epoch")],
            [
                name,
                round(lives * 1000),
                self._keeps,
                round(wait * 1000),
                CLAIM_SECONDS * 1000,
                int(fresh),
                epoch,
            ],
        )
        return Beat(found.decode(), bool(known), [one.decode() for one in dead])

    async def write(self, name: str, changes: Iterable[Change], epoch: str = "") -> Told | None:
        """Make changes of the node. None: Redis has another `epoch` than the one given, and nothing was done.
        Raises one of ERRORS."""
        hashes: dict[bytes, list[tuple[str, Change]]] = {}
        for change in changes:
            key, field = self._place(change.record)
            hashes.setdefault(key, []).append((field, change))
        arguments: list[str | int | bytes] = [name, self._keeps, epoch]
        for fields in hashes.values():
            arguments.append(len(fields))
            for field, change in fields:
                arguments += (field, change.streams, change.how if _is_user(change.record) else QUIET)
        told = Told([], [])
        for one in await self._eval(_WRITE, [self._key("epoch"), *hashes], arguments):
            if one == b"!":
                return None
            (told.came if one.startswith(b"+") else told.gone).append(one[1:].decode().removeprefix("user:"))
        return told

    async def remove(self, dead: str) -> Told:
        """Remove all that a dead node had. Raises one of ERRORS."""
        told = Told([], [])
        mark = f"{dead}=".encode()
        cursor = b"0"
        while True:
            cursor, page = await self._page(self.who, cursor)
            targets = [_target(field) for field, value in page if mark in value]
            for target in targets:
                if topic_name(target) is not None:
                    await self._remove_members(dead, mark, target)
            if targets:
                changes = [Change(target, GONE, TELL) for target in targets]
                if (removed := await self.write(dead, changes)) is not None:
                    told.gone.extend(removed.gone)
            if cursor == b"0":
                break
        await self._links.call(self.who, "ZREM", self._key("dead"), dead)
        return told

    async def _remove_members(self, dead: str, mark: bytes, target: Target) -> None:
        cursor = b"0"
        while True:
            cursor, page = await self._page(self._members(target), cursor)
            users = [field.decode() for field, value in page if mark in value]
            if users:
                await self.write(dead, [Change((target, user), GONE, QUIET) for user in users])
            if cursor == b"0":
                return

    async def read(self, targets: Sequence[Target], most_ids: int) -> list[Here]:
        """What is known of users and topics of this partition. Raises one of ERRORS."""
        topics = [target for target in targets if topic_name(target) is not None]
        who, members = await self._eval(
            _READ,
            [self._key("nodes"), self._key("dead"), self.who, *map(self._members, topics)],
            [most_ids, _EXACT, *(self._place(target)[1] for target in targets)],
        )
        of_topic = dict(zip(topics, members, strict=True))
        found = []
        for target, streams in zip(targets, who, strict=True):
            users, more, ids = of_topic.get(target, (0, 0, ()))
            found.append(Here(streams, users, tuple(one.decode() for one in ids), bool(more)))
        return found

    async def _page(self, key: bytes, cursor: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        cursor, flat = await self._links.call(key, "HSCAN", key, cursor, "COUNT", PAGE)
        return cursor, list(zip(flat[::2], flat[1::2], strict=True))

    async def _eval(self, script: bytes, keys: list[bytes], arguments: list[Any]) -> Any:
        command: Command = ("EVAL", script, len(keys), *keys, *arguments)
        return await self._links.call(self.who, *command)

    def _key(self, name: str) -> bytes:
        return f"{self._base}:{name}".encode()

    def _members(self, target: Target) -> bytes:
        return self._key(f"topic:{topic_name(target)}")

    def _place(self, record: Record) -> tuple[bytes, str]:
        """The hash and the field of a record."""
        if not isinstance(record, str):
            return self._members(record[0]), record[1]
        name = topic_name(record)
        return self.who, f"user:{record}" if name is None else f"topic:{name}"


def _is_user(record: Record) -> bool:
    return isinstance(record, str) and topic_name(record) is None


def _target(field: bytes) -> Target:
    kind, _, name = field.decode().partition(":")
    return name if kind == "user" else topic(name)
