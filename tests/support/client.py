"""A client of /sse over a real socket: h11 for HTTP, and a parser of its own for the events."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import h11
import trio


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a browser would dispatch it. `name` is "message" when the service gave none."""

    name: str
    data: str
    id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class EventParser:
    """The event stream interpretation of WHATWG HTML 9.2.6."""

    def __init__(self) -> None:
        self.retry: int | None = None
        self._rest = b""
        self._id = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return [event for line in lines if (event := self._line(line.decode().rstrip("\r\n")))]

    def _line(self, line: str) -> Event | None:
        if not line:
            data, self._data = self._data, []
            name, self._name = self._name, ""
            return Event(name or "message", "\n".join(data), self._id) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isdecimal():
            self.retry = int(value)
        return None


class Stream:
    """One open stream. Its events come in order, by `event` or `notification`."""

    def __init__(self, transport: trio.SocketStream) -> None:
        self.transport = transport
        self.http = h11.Connection(h11.CLIENT)
        self.parser = EventParser()
        self.status = 0
        self.connected = Event("", "", "")
        self.headers: dict[str, str] = {}
        self._events: list[Event] = []

    async def request(self, target: str, headers: Iterable[tuple[str, str]], http_version: str) -> None:
        """Send the request and read the head of the response."""
        request = h11.Request(method="GET", target=target, headers=[("host", "localhost"), *headers])
        data = (self.http.send(request) or b"") + (self.http.send(h11.EndOfMessage()) or b"")
        await self.transport.send_all(data.replace(b"HTTP/1.1", b"HTTP/" + http_version.encode(), 1))
        response = await self._next()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    async def _next(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.transport.receive_some(262_144))
        return event

    async def _more(self) -> bool:
        """Read more events. False at the proper end of the response; an improper one raises."""
        part = await self._next()
        if isinstance(part, h11.Data):
            self._events += self.parser.feed(bytes(part.data))
            return True
        assert isinstance(part, h11.EndOfMessage)
        return False

    async def event(self) -> Event:
        """The next event, whichever it is."""
        while not self._events:
            assert await self._more(), "the stream has ended"
        return self._events.pop(0)

    async def next_but_heartbeats(self) -> Event:
        while (event := await self.event()).name == "heartbeat":
            pass
        return event

    async def notification(self) -> Any:
        """The next event but heartbeats, which must be a notification: its JSON."""
        event = await self.next_but_heartbeats()
        assert event.name == "message", event
        return event.json

    async def numbers(self, count: int) -> list[int]:
        """The field `n` of so many notifications, which must be the next events but heartbeats."""
        return [(await self.notification())["n"] for _ in range(count)]

    async def until(self, last: Callable[[Event], bool]) -> list[Event]:
        """All events up to the one that is the `last`."""
        events = [await self.event()]
        while not last(events[-1]):
            events.append(await self.event())
        return events

    async def to_the_end(self) -> list[Event]:
        """All that is left. Raises h11.RemoteProtocolError when the response is cut off."""
        while await self._more():
            pass
        return self._events

    def reset(self) -> None:
        """Leave by RST."""
        linger_none(self.transport.socket)
        self.transport.socket.close()


def linger_none(sock: trio.socket.SocketType) -> None:
    """Make closing this socket send RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def connect(
    port: int, *, receive_buffer: int | None = None, source: str | None = None
) -> trio.SocketStream:
    """A TCP connection. A small `receive_buffer` makes a client that does not read fill up soon.

    `source` is an address of its own to come from.
    """
    sock = trio.socket.socket()
    try:
        if source is not None:
            await sock.bind((source, 0))
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


@contextlib.asynccontextmanager
async def streaming(
    port: int,
    user: str | None = None,
    *,
    headers: Iterable[tuple[str, str]] = (),
    http_version: str = "1.1",
    receive_buffer: int | None = None,
    target: str | None = None,
) -> AsyncIterator[Stream]:
    """A stream of `user` that has seen `connected`: what is published from now on reaches it."""
    async with await connect(port, receive_buffer=receive_buffer) as transport:
        stream = Stream(transport)
        target = target or ("/sse" if user is None else f"/sse?user_id={user}")
        await stream.request(target, headers, http_version)
        assert stream.status == 200, stream.status
        stream.connected = await stream.event()
        while _comes_back(target, headers) and stream.connected.name == "heartbeat":
            stream.connected = await stream.event()  # its place is still looked for in the stream in Redis
        assert stream.connected.name == "connected", stream.connected
        yield stream


def _comes_back(target: str, headers: Iterable[tuple[str, str]]) -> bool:
    return "last_event_id=" in target or any(name.lower() == "last-event-id" for name, _ in headers)


@contextlib.asynccontextmanager
async def streams(port: int, users: Iterable[str]) -> AsyncIterator[list[Stream]]:
    """A stream for each of `users`."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(streaming(port, user)) for user in users]


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 15) -> None:
    """Wait until `condition()` is true."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.02)
        return
    raise AssertionError(f"not within {seconds} s: {what}")


def account(events: Iterable[Event], first: int = 0) -> tuple[int, int]:
    """Check that notifications numbered by "n" come in order, with a gap in every place where some are
    missing that says exactly how many. Returns how many were received and how many declared as dropped."""
    expected, received, dropped = first, 0, 0
    for event in events:
        if event.name == "gap":
            assert event.json["reason"] == "slow_client", event
            assert event.json["dropped"] > 0, event
            dropped += event.json["dropped"]
            expected += event.json["dropped"]
        elif event.name == "message":
            assert event.json["n"] == expected, f"after {expected - 1} and its gaps came {event.json['n']}"
            expected += 1
            received += 1
    return received, dropped
