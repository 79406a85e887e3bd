"""h2's connection, in which an error or a GOAWAY ends less than in h2 4.

A proxy puts the streams of all its users on one connection. So an error of one stream ends only that stream
(RFC 9113, 5.4.2), and a GOAWAY does not end open streams (6.8). tests/integration/test_libraries.py fails
when h2 does this itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.events import StreamReset
from h2.exceptions import InvalidBodyLengthError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy
from hpack import Encoder
from hypercorn.config import Config

HEADER_TABLE_BYTES = 4096


class ServerConnection(H2Connection):
    """h2's connection as Hypercorn sets it up, with the bounds of `config`."""

    def __init__(self, config: Config) -> None:
        super().__init__(H2Configuration(client_side=False, header_encoding=None))
        self.state_machine = _GoingOn()
        self.encoder = _BoundedEncoder()
        self.local_settings = _Advertised(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
            },
        )

    def is_over(self, stream_id: int) -> bool:
        """Whether both sides have ended the stream, or one has reset it."""
        stream = self.streams.get(stream_id)
        return stream is None or stream.closed

    def try_to_reset(self, stream_id: int, error_code: int) -> None:
        """Reset the stream, unless it is over."""
        if not self.is_over(stream_id):
            self.reset_stream(stream_id, error_code)

    def clear_outbound_data_buffer(self) -> None:
        """Keep the bytes to send. h2 calls this when a GOAWAY comes, but the client still reads."""

    def _begin_new_stream(self, *arguments: Any) -> H2Stream:
        stream = super()._begin_new_stream(*arguments)
        stream.__class__ = _ContainedStream
        return stream

    def _receive_priority_frame(self, frame: Any) -> Any:
        # Priorities are not used (RFC 9113, 5.3.2). For a stream that depends on itself h2 would end the
        # connection.
        frame.depends_on = 0
        return super()._receive_priority_frame(frame)


class _GoingOn(H2ConnectionStateMachine):
    """A GOAWAY, sent or received, does not stop the frames of open streams (RFC 9113, 6.8)."""

    _transitions = {  # noqa: RUF012  # as h2 has it
        **H2ConnectionStateMachine._transitions,
        (ConnectionState.SERVER_OPEN, ConnectionInputs.SEND_GOAWAY): (None, ConnectionState.SERVER_OPEN),
        (ConnectionState.SERVER_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.SERVER_OPEN),
    }


class _Advertised(Settings):
    """The client is told how many streams may be open, but h2 is not. h2 would end the connection at one
    more, which is only a stream error (RFC 9113, 5.1.2)."""

    max_concurrent_streams = sys.maxsize


class _BoundedEncoder(Encoder):
    """Keeps a header table of at most the initial size, whatever the client offers (RFC 7541, 4.2).

    It searches the whole table for each field that it sends.
    """

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        Encoder.header_table_size.fset(self, min(value, HEADER_TABLE_BYTES))  # type: ignore[attr-defined]


class _ContainedStream(H2Stream):
    """A stream that is reset when something malformed arrives on it (RFC 9113, 8.1.1). h2 itself handles
    frames on a half-closed stream like this: the connection's window gets back what a DATA frame took."""

    def receive_headers(self, *arguments: Any) -> Any:
        return self._contained(self._receive_headers, *arguments)

    def _receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> Any:
        # h2 checks `content-length` when DATA ends the stream, but not when a header or trailers do.
        announced = self._expected_content_length
        received = super().receive_headers(headers, end_stream, header_encoding)
        if announced is None:
            announced = self._expected_content_length
        if end_stream and announced not in (None, self._actual_content_length):
            raise InvalidBodyLengthError(announced, self._actual_content_length)
        return received

    def receive_data(self, *arguments: Any) -> Any:
        return self._contained(super().receive_data, *arguments)

    def _contained(self, receive: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return receive(*arguments)
        except StreamClosedError:
            raise
        except ProtocolError as error:
            if not self.closed:
                self.reset_stream(error.error_code)
            self.state_machine.stream_closed_by = StreamClosedBy.SEND_RST_STREAM
            contained = StreamClosedError(self.stream_id)
            contained.error_code = error.error_code
            reset = StreamReset(stream_id=self.stream_id, error_code=error.error_code, remote_reset=False)
            contained._events = [reset]
            raise contained from error
