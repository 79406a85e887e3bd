"""A client of HTTP/2, over TLS or without: h2 for the frames. One connection, many streams.

It can do what a client must not.
"""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio
from h2.connection import ConnectionInputs, ConnectionState, H2ConnectionStateMachine

from tests.support.client import Event, EventParser, connect


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


class _Unbounded(h2.settings.Settings):
    """Whatever the service allows."""

    max_concurrent_streams = sys.maxsize


class _GoingOn(H2ConnectionStateMachine):
    """After a GOAWAY h2 would refuse the frames of open streams, which go on (RFC 9113, 6.8)."""

    _transitions = {  # noqa: RUF012  # as h2 has it
        **H2ConnectionStateMachine._transitions,
        (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.CLIENT_OPEN),
    }


class Http2:
    """The connection. Something must run its `read`."""

    def __init__(self, transport: trio.abc.Stream, *, reading: bool = True) -> None:
        self.transport = transport
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.http = h2.connection.H2Connection(config)
        self.http.state_machine = _GoingOn()
        self.http.remote_settings = _Unbounded(client=False)
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.pongs = 0
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
        stream = self.ask(path, headers)
        await self.flush()
        await self.until(lambda: stream.status or stream.ended or self.closed)
        return stream

    async def whole(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> Stream2:
        """Ask, and wait for the end of the answer."""
        stream = await self.get(path, headers)
        await self.until(lambda: stream.ended)
        return stream

    async def send(self, stream: Stream2, size: int, *, end: bool = False) -> None:
        """Part of a body, as the windows allow. Stops where the stream is reset."""
        while size:
            await self.until(lambda: stream.reset_by is not None or self._room(stream))
            if stream.reset_by is not None:
                return
            part = min(size, self._room(stream))
            size -= part
            self.http.send_data(stream.number, bytes(part), end_stream=end and not size)
            await self.flush()

    def _room(self, stream: Stream2) -> int:
        return min(16384, self.http.local_flow_control_window(stream.number))

    async def ping(self) -> None:
        """Ask whether the connection lives, and wait for the answer."""
        pongs = self.pongs
        self.http.ping(b"12345678")
        await self.flush()
        await self.until(lambda: self.pongs > pongs)

    async def get_and_reset(self, path: str, headers: Iterable[tuple[str, str]], times: int) -> None:
        """Ask so many times, and take each request back at once."""
        for _ in range(times):
            self.http.reset_stream(self.ask(path, headers).number, 8)
        await self.flush()

    def ask(
        self, path: str, headers: Iterable[tuple[str, str]] = (), *, method: str = "GET", end: bool = True
    ) -> Stream2:
        """Write a request, for `flush` to send. With `end` False a body follows."""
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        return self.ask_raw([*pseudo, *headers], end=end)

    def ask_raw(self, headers: Iterable[tuple[str | bytes, str | bytes]], *, end: bool = True) -> Stream2:
        number = self.http.get_next_available_stream_id()
        stream = self.streams[number] = Stream2(self, number)
        self.http.send_headers(number, list(headers), end_stream=end)
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
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].ended = True
            self.streams[event.stream_id].reset_by = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1


@contextlib.asynccontextmanager
async def http2(port: int, cafile: str | None, *, reading: bool = True) -> AsyncIterator[Http2]:
    """A connection, by prior knowledge without a `cafile`.

    With `reading` False it never gives the service more room than there is at first.
    """
    sock: trio.SocketStream = await connect(port)
    transport: trio.abc.Stream = sock
    if cafile is not None:
        context = ssl.create_default_context(cafile=cafile)
        context.set_alpn_protocols(["h2"])
        transport = secure = trio.SSLStream(sock, context, server_hostname="127.0.0.1", https_compatible=True)
        await secure.do_handshake()
        assert secure.selected_alpn_protocol() == "h2"
    async with transport, trio.open_nursery() as nursery:
        client = Http2(transport, reading=reading)
        await client.begin()
        nursery.start_soon(client.read)
        yield client
        nursery.cancel_scope.cancel()
