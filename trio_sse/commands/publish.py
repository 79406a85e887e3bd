"""`trio-sse publish`: messages by hand, to Redis, where every process of the service takes them from."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec
from redis.exceptions import MovedError

from trio_sse import options
from trio_sse.broker.cluster_map import redirected
from trio_sse.broker.errors import ReplicaError, of_redis
from trio_sse.broker.link import ERRORS, Link, answer_within, call, open_link, replicates
from trio_sse.broker.open_links import IDLE_SECONDS
from trio_sse.commands.keyed import Added, KeyedSender, PartitionSender, Sent
from trio_sse.delivery.messages import EVERYBODY, RESERVED_EVENTS, name_problem, too_deep
from trio_sse.logs import escaped
from trio_sse.settings import Settings

ANSWER_SECONDS = 5.0

_SHOWN = 3
"""Channels or entries that are named, of a message for many."""


@click.command()
@click.argument("text", metavar="TEXT|JSON|-")
@click.option("--user", "users", multiple=True, metavar="ID", help="a user; may be repeated")
@click.option("--topic", "topics", multiple=True, metavar="TOPIC", help="a topic; may be repeated")
@click.option("--everybody", is_flag=True, help="all users, as --user '*'")
@click.option("--event", metavar="NAME", help="the event's name; without it browsers get it in onmessage")
@click.option("--key", metavar="KEY", help="what this is the newest value of")
@click.option("--whole", is_flag=True, help="with -: all of the input is one message")
@options.for_settings(
    lambda name: (
        (name.startswith("redis_") and name != "redis_stream_before")
        or name in ("stream_partitions", "stream_length", "max_message_bytes")
    )
)
def publish(
    text: str,
    users: tuple[str, ...],
    topics: tuple[str, ...],
    everybody: bool,
    event: str | None,
    key: str | None,
    whole: bool,
    **given: str | None,
) -> None:
    """Publish a message to the channel, or to the Redis stream if SSE_REDIS_STREAM is set.

    Text becomes "message": "text". What is JSON becomes "message": as it stands. - reads standard input:
    each line that is not empty is a message, and is published at once. At least one of --user, --topic and
    --everybody is required. Put -- in front of a text that begins with a dash.

    With SSE_REDIS_ROUTING=by-key each message goes to the channels of those it is for, with
    SSE_STREAM_PARTITIONS to the partitions that they are in.

    It says to how many subscribers Redis handed each message (by the shared channel of a cluster those of
    one node), or the ids of its entries in the Redis stream. Exit code 1 if Redis cannot be reached or
    refuses.
    """
    if everybody or EVERYBODY in users:
        users = (EVERYBODY,)
    if not users and not topics:
        raise click.UsageError("name at least one target: --user, --topic or --everybody")
    if problem := _problem(users, topics, event, key):
        raise click.UsageError(problem)
    settings = options.read(given)
    envelope: dict[str, Any] = {}
    if users:
        envelope["user_id"] = _one_or_all([_user(user) for user in users])
    if topics:
        envelope["topic"] = _one_or_all(topics)
    if event is not None:
        envelope["event"] = event
    if key is not None:
        envelope["key"] = key
    texts = _input(whole=whole) if text == "-" else iter([text])
    sys.exit(_publish_all(settings, (payload(envelope, one, settings) for one in texts)))


def payload(envelope: dict[str, Any], text: str, settings: Settings) -> bytes:
    """A message of this text, or this JSON, as Redis gets it. Ends the command if it cannot be delivered."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        options.fail("the message is not UTF-8 text")
    made = msgspec.json.encode({**envelope, "message": _value(data, text)})
    if len(made) > settings.max_message_bytes:
        options.fail(
            f"the message has {len(made)} bytes, over SSE_MAX_MESSAGE_BYTES={settings.max_message_bytes}"
        )
    if too_deep(made):
        options.fail("the message is nested too deeply")
    return made


def _value(data: bytes, text: str) -> msgspec.Raw | str:
    """JSON as it stands, since a number may have more digits than a parser keeps. Else the text."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return text
    return msgspec.Raw(data.strip())


def _user(user: str) -> int | str:
    """As back ends usually write ids: one that looks like a number as a number."""
    plain = user.isascii() and user.isdigit() and (user == "0" or user[0] != "0")
    return int(user) if plain and len(user) < 16 else user


def _one_or_all(targets: Iterable[Any]) -> Any:
    unique = list(dict.fromkeys(targets))
    return unique[0] if len(unique) == 1 else unique


def _problem(
    users: tuple[str, ...], topics: tuple[str, ...], event: str | None, key: str | None
) -> str | None:
    keys = () if key is None else (key,)
    for option, names in (("--user", users), ("--topic", topics), ("--key", keys)):
        for name in names:
            if problem := name_problem("it", name):
                return f"{option}: {problem}"
    if any("*" in topic for topic in topics):
        return "--topic: a message is for topics by name, without *"
    if event is not None and (not event or not event.isprintable()):
        return "--event: a name is one line of printable characters"
    if event in RESERVED_EVENTS:
        return f"--event: {event} is the service's own; use another name"
    return None


def _input(*, whole: bool) -> Iterator[str]:
    stdin = sys.stdin.buffer
    if whole:
        yield _decoded(stdin.read()).rstrip("\r\n")
        return
    for number, line in enumerate(iter(stdin.readline, b"")):
        text = _decoded(line).rstrip("\r\n")
        if number == 0 and text.strip() in ("{", "["):
            options.fail("the input looks like JSON on several lines: --whole takes all of it as one message")
        if text.strip():
            yield text


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        options.fail("the input is not UTF-8 text")


def _publish_all(settings: Settings, payloads: Iterator[bytes]) -> int:
    # Between two messages Ctrl-C is Python's own: `asyncio.run` would wait for the line that is being read.
    published = 0
    make = PartitionSender if settings.partitioned else KeyedSender if settings.by_key else _Sender
    with asyncio.Runner() as runner, make(settings, runner) as sender:
        for one in payloads:
            try:
                answer = sender.send(one)
            except ERRORS as error:
                before = f" ({published} published before)" if published else ""
                line = f"{of_redis(error, settings)}{before}"
                click.echo(escaped(line), err=True)
                return 1
            published += 1
            _say(answer, settings)
    return 0


class _Sender:
    """Sends messages, over one link while they come quickly."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._open = contextlib.AsyncExitStack()
        self._link: Link | None = None
        self._used_at = 0.0

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._open.aclose())

    def send(self, message: bytes) -> Any:
        """Publish it. Returns what Redis answers. Raises one of ERRORS."""
        if self._link is None or time.monotonic() - self._used_at > IDLE_SECONDS:
            self._link = self._runner.run(self._connect())
        try:
            answer = self._runner.run(self._publish(message))
        except MovedError as elsewhere:  # another node of the cluster keeps the stream
            self._link = self._runner.run(self._connect(redirected(elsewhere, None)))
            answer = self._runner.run(self._publish(message))
        self._used_at = time.monotonic()
        return answer

    async def _connect(self, at: tuple[str, int] | None = None) -> Link:
        await self._open.aclose()
        settings = self._settings
        opening = open_link(settings, database=settings.redis_stream is not None, at=at)
        link: Link = await self._open.enter_async_context(opening)
        async with answer_within(ANSWER_SECONDS):
            master = await replicates(link)
        if master is not None:
            raise ReplicaError(master)
        return link

    async def _publish(self, message: bytes) -> Any:
        assert self._link is not None
        settings = self._settings
        async with answer_within(ANSWER_SECONDS):
            if settings.redis_stream is None:
                return await call(self._link, "PUBLISH", settings.redis_channel, message)
            bound = ("MAXLEN", "~", settings.stream_length)
            return await call(self._link, "XADD", settings.redis_stream, *bound, "*", "payload", message)


def _say(answer: Any, settings: Settings) -> None:
    if isinstance(answer, Added):
        entries = [f"{entry} in {key}" for entry, key in zip(answer.entries, answer.keys, strict=True)]
        click.echo(escaped(f"entry {_few(entries)}; last_event_id={answer.place}"))
        return
    if settings.redis_stream is not None:
        click.echo(f"entry {answer.decode()} in {escaped(settings.redis_stream)}")
        return
    channels = answer.channels if isinstance(answer, Sent) else [settings.redis_channel]
    answer = answer.subscribers if isinstance(answer, Sent) else answer
    channel = escaped(_few(channels))
    click.echo(f"to {answer} subscriber{'' if answer == 1 else 's'} of {channel}")
    if answer == 0 and settings.by_key:
        click.echo(
            f"warning: no process has a stream for it at {settings.redis_address}: is anybody connected, "
            "and does the service run with this Redis, SSE_REDIS_ROUTING=by-key and this SSE_REDIS_CHANNEL?",
            err=True,
        )
    elif answer == 0:
        click.echo(
            f"warning: nobody is subscribed to {channel} at {settings.redis_address}: does the service run, "
            "with this Redis and this SSE_REDIS_CHANNEL?",
            err=True,
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
