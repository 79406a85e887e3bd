"""`trio-sse listen`: what a browser would get, line by line."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from functools import partial

import click
import httpx
import msgspec
import trio
from httpx_sse import ServerSentEvent

from trio_sse import options
from trio_sse.access.admission import STREAM_PATH
from trio_sse.commands.follow import RefusedError, Target, fields_of, follow, new_client
from trio_sse.logs import escaped, escaped_json
from trio_sse.server.listening import Url, urls

TOKEN_VARIABLE = "TRIO_SSE_TOKEN"  # noqa: S105  a name, and none of the service's settings


@click.command()
@click.option("--user", metavar="ID", help="whose messages")
@click.option("--topic", "topics", multiple=True, metavar="TOPIC", help="a topic to follow; may be repeated")
@click.option(
    "--since", metavar="TIME", help="begin with what came since then: RFC 3339, or seconds; sent as ?since="
)
@click.option(
    "--url",
    metavar="URL",
    help="where the service is [default: by SSE_HOST, SSE_PORT and SSE_ROOT_PATH, http://127.0.0.1:8085]",
)
@click.option(
    "--token-file",
    metavar="PATH",
    help=f"file with the token to send; without it {TOKEN_VARIABLE}. Read anew for each connection",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line: id, event, data")
def listen(
    user: str | None,
    topics: tuple[str, ...],
    since: str | None,
    url: str | None,
    token_file: str | None,
    as_json: bool,
) -> None:
    """Follow a stream and print its events, one a line, until Ctrl-C.

    When the stream ends, it comes back by itself with the id of the last event, so nothing is missing that
    the service still keeps. Messages go to standard output. connected, gap and the other events of the
    service itself, and reconnects, go to standard error; with --json those events are on standard output too,
    but for heartbeats. Characters that a terminal would obey are written as escape sequences.

    Exit code 1 if the service refuses the stream, 0 after Ctrl-C.
    """
    query = [("user_id", user)] if user is not None else []
    query += [("topic", topic) for topic in topics]
    if since is not None:
        query.append(("since", since))
    target = _target(url, query)
    token = partial(_token, token_file)
    token()  # a file that is not there is told before anything else
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a locale may lack most characters
    try:
        trio.run(_listen, target, token, Printer(target, as_json=as_json))
    except RefusedError as error:
        options.fail(escaped(f"{_where(target)}: {error}"))
    except KeyboardInterrupt:
        sys.exit(0)


async def _listen(target: Target, token: partial[str | None], printer: Printer) -> None:
    async with new_client(target) as client:
        await follow(client, target, token, printer)


def _target(given: str | None, query: list[tuple[str, str]]) -> Target:
    unix = None
    if given is None:
        settings = options.read({})
        way = next(iter(urls(settings)), Url(f"http://127.0.0.1:{settings.port}"))
        given, unix = way.url + settings.root_path, way.unix
    try:
        url = httpx.URL(given if "://" in given else f"http://{given}")
    except (httpx.InvalidURL, UnicodeError):
        raise click.UsageError("--url: not an address such as http://127.0.0.1:8085") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise click.UsageError("--url: not an address such as http://127.0.0.1:8085")
    path = url.path.rstrip("/")
    if not path.endswith(STREAM_PATH):
        path += STREAM_PATH
    merged = httpx.QueryParams([*url.params.multi_items(), *query])
    return Target(url.copy_with(path=path, params=merged, fragment=None), unix)


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(65536).strip()
    except (OSError, UnicodeDecodeError) as error:
        options.fail(f"--token-file {escaped(path)}: {getattr(error, 'strerror', None) or error}")
    if not token or not token.isascii() or not token.isprintable():
        options.fail(f"--token-file {escaped(path)}: there is no token in it")
    return token


def _where(target: Target) -> str:
    """The address, without the password or token that may be in it."""
    return target.unix or str(target.url.copy_with(userinfo=b"", query=None))


class Printer:
    """Prints what is told of a stream."""

    def __init__(self, target: Target, *, as_json: bool) -> None:
        self._target = target
        self._as_json = as_json

    def event(self, event: ServerSentEvent) -> None:
        if event.event == "heartbeat":
            return
        notice = _NOTICES.get(event.event)
        if notice is not None:
            _note(notice(event))
        if self._as_json:
            click.echo(as_json(event))
        elif notice is None:
            click.echo(as_line(event, datetime.now()))

    def lost(self, why: str, seconds: float) -> None:
        _note(f"{_where(self._target)}: {why}; trying again in {seconds:.3g} s")


def as_line(event: ServerSentEvent, at: datetime) -> str:
    """The time, the event's name if it has one of its own, and the data as they came."""
    name = "" if event.event == "message" else f"{event.event} "
    return escaped(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {name}{event.data}")


def as_json(event: ServerSentEvent) -> str:
    """One line; `data` as JSON where it is, as it stands, else as text."""
    try:
        raw = event.data.encode()
        msgspec.json.decode(raw)
        data: msgspec.Raw | str = msgspec.Raw(raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        data = event.data
    line = msgspec.json.encode({"id": event.id or None, "event": event.event, "data": data})
    return escaped_json(line.decode())


def _note(text: str) -> None:
    click.echo(f"-- {escaped(text)}", err=True)


def _connected(event: ServerSentEvent) -> str:
    fields = fields_of(event)
    topics = fields.get("topics")
    parts = [
        f"user {fields['user_id']}" if fields.get("user_id") is not None else "",
        f"topics {', '.join(map(str, topics))}" if isinstance(topics, list) and topics else "",
        f"{fields['replayed']} earlier messages follow" if fields.get("replayed") else "",
    ]
    return "; ".join(["connected", *filter(None, parts)])


def _gap(event: ServerSentEvent) -> str:
    fields = fields_of(event)
    dropped = fields.get("dropped")
    count = "messages are" if dropped is None else f"{dropped} message{'s are' if dropped != 1 else ' is'}"
    return f"gap: {count} missing here ({fields.get('reason')})"


def _farewell(event: ServerSentEvent) -> str:
    detail = fields_of(event).get("detail")
    return f"{event.event}: {detail}" if detail else event.event


_NOTICES = {
    "connected": _connected,
    "gap": _gap,
    "snapshot": lambda event: f"snapshot: it had {fields_of(event).get('keys')} messages",
    "draining": _farewell,
    "overloaded": _farewell,
    "auth_expired": _farewell,
    "auth_revoked": _farewell,
    "ended_by_operator": _farewell,
    "rebalancing": _farewell,
}
