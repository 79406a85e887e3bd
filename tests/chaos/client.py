"""A client that does what an EventSource does, in this process, so that a scenario can play with it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import h11
import trio

from tests.chaos.keys import Keys, query
from tests.chaos.witness import Witness
from tests.support.client import EventParser, linger_none

Dial = Callable[[], Awaitable[trio.SocketStream]]
"""Makes a TCP connection to the service, or raises OSError."""

RETRY_SECONDS = (0.02, 0.2)
"""Instead of the seconds that the service asks for: it does not change what is seen."""

SILENT_HEARTBEATS = 3
"""A stream that says nothing for so many heartbeats is given up."""


class RefusedError(Exception):
    """The service answered something other than 200: an EventSource gives up for good then."""


class Client(Witness):
    """Connects again whenever its connection ends, with the last id it saw."""

    def __init__(self, follows: Keys, dial: Dial) -> None:
        super().__init__(follows)
        self._dial = dial
        self._may_read = trio.Event()
        self._may_read.set()
        self._may_connect = trio.Event()
        self._may_connect.set()
        self._socket: trio.socket.SocketType | None = None

    @property
    def attentive(self) -> bool:
        return self._may_read.is_set() and self._may_connect.is_set()

    async def run(self) -> None:
        """Be connected, until cancelled. Raises RefusedError."""
        while True:
            await self._may_connect.wait()
            try:
                stream = await self._dial()
                async with stream:
                    if self._may_connect.is_set():  # else it has gone away meanwhile
                        self._socket = stream.socket
                        try:
                            await self._read(stream)
                        finally:
                            self._socket = None  # before it is closed, which lets others run
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                pass
            await trio.sleep(random.uniform(*RETRY_SECONDS))

    def drop(self) -> None:
        """Lose the connection, by RST."""
        lost, self._socket = self._socket, None  # the one who reads learns of it later
        if lost is not None:
            linger_none(lost)
            lost.close()

    def stop_reading(self) -> None:
        self._may_read = trio.Event()

    def read_on(self) -> None:
        self._may_read.set()

    def go_away(self) -> None:
        self._may_connect = trio.Event()
        self.drop()

    def come_back(self) -> None:
        self._may_connect.set()

    async def _read(self, stream: trio.SocketStream) -> None:
        http, parser = h11.Connection(h11.CLIENT), EventParser()
        headers = [("host", "localhost"), ("accept", "text/event-stream")]
        if self.last_id:
            headers.append(("last-event-id", self.last_id))
        request = h11.Request(method="GET", target=f"/sse?{query(self.follows)}", headers=headers)
        await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while True:
            part = http.next_event()
            if part is h11.NEED_DATA:
                await self._may_read.wait()
                data = None
                with trio.move_on_after(SILENT_HEARTBEATS * self.heartbeat_seconds):
                    data = await stream.receive_some(65536)
                if data is None:
                    return  # silence
                http.receive_data(data)
            elif isinstance(part, h11.Response):
                if part.status_code != 200:
                    raise RefusedError(f"a client of {self.follows} was answered {part.status_code}")
            elif isinstance(part, h11.Data):
                for event in parser.feed(bytes(part.data)):
                    self.see(event.name, event.data, event.id or self.last_id)
            else:
                return
