"""A client of HTTP/2 over TLS: h2 for the frames. One connection, many streams, and it can reset them."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

from tests.integration.support.client import Event, EventParser, connect


class Stream2:
    """One response on the connection."""

    def __init__(self, connection: Http2, number: int) -> None:
        self._connection = connection
        self.number = number
        self.headers: dict[str, str] = {}
        self.body = b""
        self.events: list[Event] = []
        self.ended = False
        self.reset_by: int | None = None
        self.parser = EventParser()

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))

    async def event(self) -> Event:
        """The next event of the stream that is no heartbeat."""
        while True:
            await self._connection.until(lambda: self.events or self.ended)
            assert self.events, "the stream has ended"
            event = self.events.pop(0)
            if event.name != "heartbeat":
                return event

    async def reset(self) -> None:
        """Leave by RST_STREAM, as a browser does."""
        self._connection.http.reset_stream(self.number, 8)
        await self._connection.flush()


class Http2:
    """The connection. Something must run its `read`."""

    def __init__(self, transport: trio.SSLStream[trio.SocketStream], *, reading: bool = True) -> None:
        self.transport = transport
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.streams: dict[int, Stream2] = {}
        self.closed = False
        self._reading = reading
        self._changed = trio.Condition()
        self._sending = trio.Lock()

    async def begin(self) -> None:
        self.http.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        async with self._sending:
            if data := self.http.data_to_send():
                await self.transport.send_all(data)

    async def get(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> Stream2:
        """Ask, and wait for the head of the answer."""
        stream = self._ask(path, headers)
        await self.flush()
        await self.until(lambda: stream.status or self.closed)
        return stream

    async def get_and_reset(self, path: str, headers: Iterable[tuple[str, str]], times: int) -> None:
        """Ask so many times, and take each request back at once."""
        for _ in range(times):
            self.http.reset_stream(self._ask(path, headers).number, 8)
        await self.flush()

    def _ask(self, path: str, headers: Iterable[tuple[str, str]]) -> Stream2:
        number = self.http.get_next_available_stream_id()
        stream = self.streams[number] = Stream2(self, number)
        pseudo = [(":method", "GET"), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        self.http.send_headers(number, [*pseudo, *headers], end_stream=True)
        return stream

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(20):
            async with self._changed:
                while not condition():
                    assert not self.closed, "the connection has ended"
                    await self._changed.wait()

    async def read(self) -> None:
        """Until the service closes the connection."""
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError
        ):
            while data := await self.transport.receive_some(65536):
                for event in self.http.receive_data(bytes(data)):
                    self._handle(event)
                await self.flush()
                async with self._changed:
                    self._changed.notify_all()
        self.closed = True
        async with self._changed:
            self._changed.notify_all()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            headers = self.streams[event.stream_id].headers
            headers.update({bytes(name).decode(): bytes(value).decode() for name, value in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            stream = self.streams[event.stream_id]
            stream.body += event.data
            stream.events += stream.parser.feed(event.data)
            if self._reading:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            stream = self.streams[event.stream_id]
            stream.ended = True


@contextlib.asynccontextmanager
async def http2(port: int, cafile: str, *, reading: bool = True) -> AsyncIterator[Http2]:
    """A connection. With `reading` False it never gives the service more room than there is at first."""
    context = ssl.create_default_context(cafile=cafile)
    context.set_alpn_protocols(["h2"])
    sock = await connect(port)
    transport = trio.SSLStream(sock, context, server_hostname="127.0.0.1", https_compatible=True)
    async with transport, trio.open_nursery() as nursery:
        await transport.do_handshake()
        assert transport.selected_alpn_protocol() == "h2"
        client = Http2(transport, reading=reading)
        await client.begin()
        nursery.start_soon(client.read)
        yield client
        nursery.cancel_scope.cancel()
