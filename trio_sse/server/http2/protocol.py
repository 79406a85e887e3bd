"""The requests of one HTTP/2 connection in Hypercorn. None of them ends or blocks the others.

- An error in a request or in its answer affects that request only. A body that arrives after the answer is
  read and dropped, so that the connection's window does not shrink.
- A request beyond the limit is refused; the others go on.
- A body waits in its window until the application takes it, and never blocks other requests.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import h2.events
import structlog
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.events import Updated
from hypercorn.protocol.events import Body, EndBody, EndData, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.utils import filter_pseudo_headers

from trio_sse.server.containment import one_line
from trio_sse.server.http2.bounds import UNREAD_BYTES, BoundedStreamBuffer, without_queue_limit
from trio_sse.server.http2.lasting import LastingProtocol

log = structlog.stdlib.get_logger("trio_sse.server.http2.installing")

_METHOD = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_PATH = re.compile(rb"/[!-~]*|\*")


class _Request:
    """A request that counts as open."""

    __slots__ = ("answered", "dropped", "waiting")

    def __init__(self) -> None:
        self.answered = False
        self.waiting = 0
        """Bytes of its body that the application has not taken."""
        self.dropped = 0
        """Bytes of its body that came after the answer."""


class ContainedProtocol(LastingProtocol):
    """One HTTP/2 connection."""

    def __init__(self, app: Any, config: Config, *arguments: Any) -> None:
        super().__init__(app, config, *arguments)
        self._requests: dict[int, _Request] = {}
        self._running = 0

    # From the client

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if self._ended:
                return
            try:
                await self._handle_event(event)
            except Exception as error:
                stream_id = getattr(event, "stream_id", None)
                if not stream_id:
                    raise
                log.warning("an HTTP/2 stream ended by an error", error=one_line(error))
                await self._refuse(stream_id, ErrorCodes.INTERNAL_ERROR)
        await self._flush()

    async def _handle_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            await self._begin(event)
        elif isinstance(event, h2.events.DataReceived):
            await self._take(event.stream_id, event.data, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            if event.stream_id in self.streams:
                await self.streams[event.stream_id].handle(EndBody(stream_id=event.stream_id))
        elif isinstance(event, h2.events.StreamReset):
            request = self._requests.pop(event.stream_id, None)
            if request is None or not request.answered or not event.remote_reset:
                await self._count_waste()
            await self._drop(event.stream_id)
        elif isinstance(event, h2.events.PriorityUpdated):
            pass  # RFC 9113, 5.3.2. All streams are equal; nothing is stored for one that never opens
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._leaving = True  # the client opens no more streams, but reads the open ones
            if event.error_code != ErrorCodes.NO_ERROR:
                await self._end()
            await self.has_data.set()
        else:
            await super()._handle_events([event])

    async def _begin(self, event: h2.events.RequestReceived) -> None:
        stream_id = event.stream_id
        if self.connection.is_over(stream_id):
            return  # the client has reset it already
        if self.context.terminated.is_set():
            self._go_away(stream_id)
        if not self._has_place(stream_id):
            await self._refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = {name: value for name, value in event.headers if name.startswith(b":")}
        method, path = pseudo[b":method"], pseudo.get(b":path", b"/")
        if not _METHOD.fullmatch(method) or not _PATH.fullmatch(path):
            await self._refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        self._requests[stream_id] = request = _Request()
        if method == b"CONNECT":  # RFC 9110, 9.3.6: most servers do not
            request.answered = True
            head = [(b":status", b"501"), *self.config.response_headers("h2")]
            self.connection.send_headers(stream_id, head, end_stream=True)
            return
        await self.send(Updated(idle=False))
        await self._create(stream_id, request, method, path, event.headers)
        await self.context.mark_request()

    def _has_place(self, stream_id: int) -> bool:
        """Whether one more stream may be open (RFC 9113, 5.1.2) and one more application may run. The
        application of a stream that was reset takes a while to end."""
        limit = self.config.h2_max_concurrent_streams
        if len(self._requests) >= limit:
            for number in [number for number in self._requests if self.connection.is_over(number)]:
                del self._requests[number]
        served = self._last is None or stream_id <= self._last
        return served and len(self._requests) < limit and self._running < 2 * limit

    async def _create(
        self, stream_id: int, request: _Request, method: bytes, path: bytes, headers: Any
    ) -> None:
        self.streams[stream_id] = stream = HTTPStream(
            partial(self._run, stream_id, request),
            without_queue_limit(self.config),
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        self.stream_buffers[stream_id] = BoundedStreamBuffer(self.context.event_class)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(headers),
                http_version="2",
                method=method.decode().upper(),
                raw_path=path,
                state=self.connection_state,
            )
        )
        if stream.closed:  # it was for another host and has been answered
            await self._finish(stream_id)

    async def _run(
        self, stream_id: int, request: _Request, scope: Any, receive: Callable[[], Awaitable[Any]], *rest: Any
    ) -> None:
        """Run the application. Its client may send more as the application takes the body."""

        async def receive_and_acknowledge() -> Any:
            message = await receive()
            taken = len(message.get("body", b""))
            request.waiting -= taken
            await self._acknowledge(stream_id, taken)
            return message

        self._running += 1
        try:
            await self.app(scope, receive_and_acknowledge, *rest)
        finally:
            self._running -= 1
            waiting, request.waiting = request.waiting, 0
            await self._acknowledge(stream_id, waiting)

    async def _take(self, stream_id: int, data: bytes, length: int) -> None:
        """Receive a part of a body. `length` includes the padding."""
        request = self._requests.get(stream_id)
        if request is None:  # reset by either side
            self.connection.acknowledge_received_data(length, stream_id)
            return
        if stream_id in self.streams and data:
            request.waiting += len(data)
            length -= len(data)
            await self.streams[stream_id].handle(Body(stream_id=stream_id, data=data))
        elif stream_id not in self.streams:
            request.dropped += length
            if request.dropped > UNREAD_BYTES:
                self.connection.try_to_reset(stream_id, ErrorCodes.NO_ERROR)
        self.connection.acknowledge_received_data(length, stream_id)

    async def _acknowledge(self, stream_id: int, length: int) -> None:
        with contextlib.suppress(ProtocolError):
            self.connection.acknowledge_received_data(length, stream_id)
        await self.has_data.set()

    async def _refuse(self, stream_id: int, error_code: ErrorCodes) -> None:
        self._requests.pop(stream_id, None)
        self.connection.try_to_reset(stream_id, error_code)
        await self._drop(stream_id)
        await self._count_waste()

    # From the application

    async def stream_send(self, event: StreamEvent) -> None:
        if self.closed:
            return
        stream_id = event.stream_id
        if isinstance(event, EndBody | EndData):
            if stream_id in self.stream_buffers:
                buffer = self.stream_buffers[stream_id]
                buffer.set_complete()
                await self._window_updated(stream_id)
                await buffer.ended.wait()
        elif isinstance(event, StreamClosed):
            await self._finish(stream_id)
        elif isinstance(event, Response):
            if stream_id in self._requests:
                self._requests[stream_id].answered = True
            head = [(b":status", b"%d" % event.status_code), *event.headers]
            with contextlib.suppress(ProtocolError):  # the stream is over
                self.connection.send_headers(stream_id, [*head, *self.config.response_headers("h2")])
            await self.has_data.set()
        else:
            await super().stream_send(event)

    async def _finish(self, stream_id: int) -> None:
        """The application has finished with a stream. Its last bytes may still wait to be sent."""
        await self._close_stream(stream_id)
        if stream_id in self.stream_buffers and not self.stream_buffers[stream_id].said_all:
            self.connection.try_to_reset(stream_id, ErrorCodes.INTERNAL_ERROR)
            await self._drop(stream_id)
        idle = not self.streams
        if idle and self.context.terminated.is_set():
            self._go_away()
        await self.has_data.set()
        if not self._ended and not self._is_done:
            await self.send(Updated(idle=idle))
