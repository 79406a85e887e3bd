"""One HTTP/2 connection in Hypercorn: in which order its streams are sent, and when it ends.

- A connection does not end because it is old. If its client resets requests over and over, it accepts no new
  ones and ends with its last stream. The same holds when the client has sent GOAWAY (RFC 9113, 6.8), and when
  the service stops.
- A writer resumes when little is left in its buffer, not when little was taken from it: nothing is ever taken
  for a client with a closed window. It also resumes when its stream or its connection has ended.
"""

from __future__ import annotations

import contextlib
from typing import Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from priority.priority import DeadlockError, MissingStreamError

from trio_sse.server.http2.bounds import WASTE, BoundedStreamBuffer, Waste
from trio_sse.server.http2.frames import ServerConnection


class LastingProtocol(H2Protocol):
    """One HTTP/2 connection. A subclass handles its requests."""

    def __init__(self, app: Any, config: Config, *arguments: Any) -> None:
        super().__init__(app, config, *arguments)
        self.connection: ServerConnection = ServerConnection(config)
        self.stream_buffers: dict[int, BoundedStreamBuffer] = {}  # type: ignore[assignment]
        self._waste = Waste(self.context.time)
        self._last: int | None = None  # the last stream that is served, once GOAWAY was sent
        self._leaving = False  # whether the connection ends with its last stream
        self._ended = False  # whether GOAWAY can no longer be sent
        self._sending = 0

    async def initiate(self, *arguments: Any) -> None:
        await super().initiate(*arguments)
        # The connection began as HTTP/1, which marked it as busy. No request has come yet.
        await self.send(Updated(idle=True))

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self._ended:
                return
            self._ended = not event.data
            try:
                events = self.connection.receive_data(event.data)
            except ProtocolError:
                await self._flush()
                await self._end()
            else:
                await self._handle_events(events)
            return
        if isinstance(event, Closed) and not self._ended and not self._sending:
            # The server closes an idle connection. After GOAWAY the client may repeat a request that is under
            # way.
            self._ended = True
            self._go_away()
            await self._flush()
        await super().handle(event)
        if self.closed:
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def send_task(self) -> None:
        """Send what is waiting, and close the connection when it is done.

        Only this task writes what applications send. In their own tasks a write could be cancelled half-way,
        and lost header fields make those of all other streams unreadable (RFC 7541, 2.3.2).
        """
        while not self.closed:
            done = self._is_done  # before the flush: a GOAWAY added during it is sent by the next one
            await self._flush()
            if done and not self._sending:
                await self._end()
                return
            try:
                stream_id = next(self.priority)
            except DeadlockError:
                await self.has_data.wait()
                await self.has_data.clear()
            else:
                await self._send_data(stream_id)

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers[stream_id]
        try:
            room = self.connection.local_flow_control_window(stream_id)
            data = await buffer.pop(max(0, min(room, self.connection.max_outbound_frame_size)))
            done = buffer.complete
            if data or done:
                self.connection.send_data(stream_id, data, end_stream=done)
            else:
                self.priority.block(stream_id)
        except ProtocolError:  # the stream is over
            done = True
        if done:
            del self.stream_buffers[stream_id]
            with contextlib.suppress(MissingStreamError):
                self.priority.remove_stream(stream_id)
            await buffer.close()

    async def _drop(self, stream_id: int) -> None:
        """Tell the application and its writer that a stream is over."""
        await self._close_stream(stream_id)
        if stream_id in self.stream_buffers:
            await self.stream_buffers[stream_id].close()
            await self._window_updated(stream_id)

    async def _count_waste(self) -> None:
        level = self._waste.add()
        if level > 2 * WASTE:
            self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, last_stream_id=self._last)
            await self._flush()
            await self._end()
        elif level > WASTE:
            self._go_away()
            await self.has_data.set()

    async def _flush(self) -> None:
        data = self.connection.data_to_send()
        if not data:
            return
        self._sending += 1
        try:
            await self.send(RawData(data=data))
        finally:
            self._sending -= 1
            if self._leaving:  # `send_task` may be waiting for it
                await self.has_data.set()

    def _go_away(self, before: int | None = None) -> None:
        """Send GOAWAY: the streams so far, or those before `before`, are the last."""
        if self._last is None:
            self._leaving = True
            highest = self.connection.highest_inbound_stream_id
            self._last = highest if before is None else max(0, before - 2)
            with contextlib.suppress(ProtocolError):
                self.connection.close_connection(last_stream_id=self._last)

    @property
    def _is_done(self) -> bool:
        return self._leaving and not self.streams and not self.stream_buffers

    async def _end(self) -> None:
        self._ended = True
        await self.send(Updated(idle=False))  # ends the idle time-out
        with contextlib.suppress(OSError):  # asyncio's TLS, if the client still sends
            await self.send(Closed())
