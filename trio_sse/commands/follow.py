"""A client of the service: follows a stream over every reconnect."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import httpx
import msgspec
import trio
from httpx_sse import EventSource, ServerSentEvent

from trio_sse.http_answers import told
from trio_sse.version import __version__

ANSWER_SECONDS = 15.0
RETRY_SECONDS = 3.0
"""Until the stream says otherwise by `retry:`."""
LONGEST_RETRY_SECONDS = 60.0
HEARTBEAT_SECONDS = 30.0
"""Until `connected` says otherwise."""
SILENT_HEARTBEATS = 2.5
"""After so many without a sign of life a connection is taken for dead."""


class RefusedError(Exception):
    """The service will not give this stream. The text says why."""


class Teller(Protocol):
    """What is told of a stream."""

    def event(self, event: ServerSentEvent) -> None: ...

    def lost(self, why: str, seconds: float) -> None:
        """The stream has ended, or could not be had; another attempt follows after `seconds`."""


class Target(NamedTuple):
    """What to follow, and where."""

    url: httpx.URL
    """The stream's, with its query."""
    unix: str | None = None
    """A Unix socket to connect to, whatever host the URL has."""


def new_client(target: Target) -> httpx.AsyncClient:
    """A client for streams, which last longer than any time-out. The system's certificates count
    (SSL_CERT_FILE names others), and HTTPS_PROXY and NO_PROXY."""
    verify = ssl.create_default_context()
    transport = httpx.AsyncHTTPTransport(verify=verify, uds=target.unix) if target.unix else None
    return httpx.AsyncClient(
        headers={"user-agent": f"trio_sse/{__version__}", "accept-encoding": "identity"},
        timeout=httpx.Timeout(None, connect=ANSWER_SECONDS),
        follow_redirects=True,
        transport=transport,
        verify=verify,
    )


async def follow(
    client: httpx.AsyncClient, target: Target, token: Callable[[], str | None], tell: Teller
) -> None:
    """Tell the events of a stream until cancelled.

    Whenever the stream ends, it comes back with the last id, after the time that the stream asked for;
    fruitless attempts come at growing intervals. `token` is asked before each. Raises RefusedError if the
    service says no.
    """
    stream = _Stream(tell)
    while True:
        try:
            await stream.once(client, target, token())
            why = "the stream has ended"
        except httpx.HTTPError as error:
            why = told(error)
        except _SilentError as error:
            why = str(error)
        seconds = stream.rest()
        tell.lost(why, seconds)
        await trio.sleep(seconds)


class _SilentError(Exception):
    """Nothing came for too long."""


class _Stream:
    """What is kept of a stream from one connection to the next."""

    def __init__(self, tell: Teller) -> None:
        self._tell = tell
        self._last_event_id = ""
        self._retry = RETRY_SECONDS
        self._heartbeat = HEARTBEAT_SECONDS
        self._fruitless = 0

    def rest(self) -> float:
        """How long to wait before the next attempt."""
        self._fruitless += 1
        return min(self._retry * 2.0 ** min(self._fruitless - 1, 10), max(LONGEST_RETRY_SECONDS, self._retry))

    async def once(self, client: httpx.AsyncClient, target: Target, token: str | None) -> None:
        """One connection, to its end."""
        headers = {b"accept": b"text/event-stream", b"cache-control": b"no-store"}
        if self._last_event_id:
            headers[b"last-event-id"] = self._last_event_id.encode()
        if token:
            headers[b"authorization"] = f"Bearer {token}".encode()
        with trio.move_on_after(ANSWER_SECONDS) as waiting:
            async with client.stream("GET", target.url, headers=headers) as answer:
                await _accepted(answer)
                async for event in EventSource(answer).aiter_sse():
                    self._take(event)
                    waiting.deadline = trio.current_time() + SILENT_HEARTBEATS * self._heartbeat
                return
        raise _SilentError("nothing came for too long")

    def _take(self, event: ServerSentEvent) -> None:
        self._fruitless = 0
        self._last_event_id = event.id or self._last_event_id
        if event.retry is not None:
            self._retry = min(event.retry / 1000, 3600.0)
        if event.event == "connected":
            seconds = fields_of(event).get("heartbeat_seconds")
            if isinstance(seconds, int | float) and 0 < seconds <= 3600:
                self._heartbeat = seconds
        if event.data:  # else a browser dispatches none (WHATWG HTML, 9.2.6)
            self._tell.event(event)


async def _accepted(answer: httpx.Response) -> None:
    """Return if the answer is a stream. Raises RefusedError, or HTTPStatusError if another attempt may
    help."""
    if answer.status_code == httpx.codes.OK:
        kind = answer.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            raise RefusedError(f"what answers there is no event stream (Content-Type: {kind or 'none'})")
        return
    try:
        problem = msgspec.json.decode(await answer.aread())
        said = "; ".join(str(problem[name]) for name in ("title", "detail") if problem.get(name))
    except (msgspec.DecodeError, AttributeError):
        said = answer.reason_phrase
    text = f"HTTP {answer.status_code}: {said}"
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise httpx.HTTPStatusError(text, request=answer.request, response=answer)
    raise RefusedError(text)


def fields_of(event: ServerSentEvent) -> dict[str, Any]:
    """The fields of a notice."""
    try:
        fields = msgspec.json.decode(event.data.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
