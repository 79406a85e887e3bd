"""The part of `trio-sse check` for what is kept in keys of Redis: presence, replies, counts of streams, and
who may be asked by whom."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import NamedTuple

from redis.exceptions import NoPermissionError

from trio_sse.broker import census, control
from trio_sse.broker.cluster_map import Address, ClusterMap
from trio_sse.broker.errors import advice
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.link import ERRORS
from trio_sse.broker.presence_records import Records
from trio_sse.broker.replies import NO_LIST, push
from trio_sse.broker.topology import map_of
from trio_sse.check_by_key import Said
from trio_sse.delivery.attendance import GONE, PARTITIONS, TELL, Change
from trio_sse.delivery.targets import topic
from trio_sse.settings import Settings

KEEP_SECONDS = 2
"""How long the keys of a trial are kept."""

_MOST_NAMES = 10_000
"""Names of lists that are made up at most, until each master of a cluster has one."""


Attempt = Callable[[], Awaitable[None]]

Keys = Iterator[tuple[bytes, Attempt]]
"""One key after the other, and what tries it. One at each Redis is enough."""


class _Trial(NamedTuple):
    """Does all that the service does, to keys of its own: that takes the same rights."""

    setting: str
    well: str
    keys: Keys


async def probe(settings: Settings) -> AsyncIterator[Said]:
    """What may be kept and what may not, a line each. Raises one of link.ERRORS if no node of a cluster says
    who serves what."""
    counted = settings.limits_shared or settings.rebalance
    if not (settings.presence or settings.reply_lists or counted or settings.admin_token):
        return
    cluster = await map_of(settings) if settings.redis_cluster else None
    links = KeyLinks(settings, cluster)
    try:
        for trial in _trials(settings, links):
            wrong = False
            for where, attempt in _one_at_each(links, cluster, trial).items():
                try:
                    if where is not None:
                        await _ask(links, where)
                    await attempt()
                except ERRORS as error:
                    wrong = True
                    name = settings.redis_address if where is None else "{}:{}".format(*where)
                    yield (
                        False,
                        f"Redis {name}: {trial.setting}: {advice(error, settings, rights=trial.setting)}",
                    )
            if not wrong:
                yield True, f"Redis {settings.redis_address}: {trial.well} ({trial.setting})"
    finally:
        await links.close()


def _one_at_each(links: KeyLinks, cluster: ClusterMap | None, trial: _Trial) -> dict[Address | None, Attempt]:
    found: dict[Address | None, Attempt] = {}
    masters = 1 if cluster is None else len(cluster.masters)
    for key, attempt in trial.keys:
        with contextlib.suppress(*ERRORS):  # a slot that nobody serves is told elsewhere
            found.setdefault(links.address_of(key), attempt)
        if len(found) == masters:
            break
    return found


async def _ask(links: KeyLinks, where: Address) -> None:
    """What goes before a command while its slot is being moved to another master."""
    (answer,) = await links.calls(where, [("ASKING",)])
    if isinstance(answer, Exception):
        raise answer


def _trials(settings: Settings, links: KeyLinks) -> Iterator[_Trial]:
    mark = f"check:{secrets.token_hex(4)}"
    if settings.presence:
        yield _Trial("SSE_PRESENCE", "presence may be kept", _presence(settings, links, mark))
    if settings.reply_lists:
        well = f"answers may be added to lists {settings.reply_lists}…"
        yield _Trial("SSE_REPLY_LISTS", well, _replies(f"{settings.reply_lists}{mark}", links))
    if settings.limits_shared or settings.rebalance:
        setting = "SSE_LIMITS_SHARED" if settings.limits_shared else "SSE_REBALANCE"
        well = "streams may be counted over all processes"
        yield _Trial(setting, well, _counts(settings, links, mark))

    if settings.admin_token is not None:
        well = "processes may ask each other"
        yield _Trial("SSE_ADMIN_TOKEN", well, _control(settings, links, mark))


def _control(settings: Settings, links: KeyLinks, mark: str) -> Keys:
    key = f"{control.keys_of(settings.redis_channel)}{mark}".encode()
    yield key, partial(control.trial, settings, links, mark, KEEP_SECONDS)


def _presence(settings: Settings, links: KeyLinks, mark: str) -> Keys:
    async def attempt(records: Records) -> None:
        await records.beat("dead", 0, 0, epoch="1", fresh=True)
        await records.beat("alive", 1, 0, epoch="1", fresh=True)
        await records.write(
            "dead", [Change(record, 1, TELL) for record in ("1", topic("a"), (topic("a"), "1"))]
        )
        await records.write("alive", [Change("1", 1, TELL), Change("1", GONE, TELL)])
        await records.remove("dead")
        await records.read(["1", topic("a")], 1)

    for number in range(PARTITIONS):
        records = Records(links, f"{settings.redis_channel}:{mark}", number, KEEP_SECONDS)
        yield records.who, partial(attempt, records)


def _replies(name: str, links: KeyLinks) -> Keys:
    async def attempt(name: str) -> None:
        if await links.call(name.encode(), *push(name, [b"check"], KEEP_SECONDS)) == NO_LIST:
            raise NoPermissionError("NOPERM the script has no permission to run 'llen'")

    for number in range(_MOST_NAMES):
        one = f"{name}:{number}"
        yield one.encode(), partial(attempt, one)


def _counts(settings: Settings, links: KeyLinks, mark: str) -> Keys:
    async def attempt() -> None:
        for command in commands:
            await links.call(key, *command)

    key, commands = census.trial(settings.redis_channel, mark, KEEP_SECONDS)
    yield key, attempt
