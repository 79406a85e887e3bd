"""h2's side of a connection, where an error or a GOAWAY ends less than h2 4 makes it end.

A proxy puts the streams of all its users on one connection, so what one of them does wrong is that stream's
error (RFC 9113, 5.4.2), and a GOAWAY leaves the streams that are open alone (6.8).
tests/integration/test_libraries.py tells when h2 does these itself.
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
    """What Hypercorn makes of h2's connection, with the bounds of `config`."""

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
        """Keep what is to be sent. h2 calls this when a GOAWAY comes; the client reads on all the same."""

    def _begin_new_stream(self, *arguments: Any) -> H2Stream:
        stream = super()._begin_new_stream(*arguments)
        stream.__class__ = _ContainedStream
        return stream

    def _receive_priority_frame(self, frame: Any) -> Any:
        # Not used (RFC 9113, 5.3.2). For a stream that depends on itself h2 would end the connection.
        frame.depends_on = 0
        return super()._receive_priority_frame(frame)


class _GoingOn(H2ConnectionStateMachine):
    """A GOAWAY, said or heard, does not stop the frames of open streams (RFC 9113, 6.8)."""

    _transitions = {  # noqa: RUF012  # as h2 has it
        **H2ConnectionStateMachine._transitions,
        (ConnectionState.SERVER_OPEN, ConnectionInputs.SEND_GOAWAY): (None, ConnectionState.SERVER_OPEN),
        (ConnectionState.SERVER_OPEN, ConnectionInputs.RECV_GOAWAY): (None, ConnectionState.SERVER_OPEN),
    }


class _Advertised(Settings):
    """The client is told how many streams may be open. h2 would end the connection at one more (RFC 9113,
    5.1.2: a stream error), so it is not told."""

    max_concurrent_streams = sys.maxsize


class _BoundedEncoder(Encoder):
    """Keeps no more header fields than at first, whatever table the client offers (RFC 7541, 4.2).

    It searches all of them for each field that it sends.
    """

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        Encoder.header_table_size.fset(self, min(value, HEADER_TABLE_BYTES))  # type: ignore[attr-defined]


class _ContainedStream(H2Stream):
    """What comes malformed on a stream resets the stream (RFC 9113, 8.1.1), as h2 itself does with a frame on
    a stream that is half closed: the connection's window gets back what a DATA frame took of it."""

    def receive_headers(self, *arguments: Any) -> Any:
        return self._contained(self._receive_headers, *arguments)

    def _receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> Any:
        # h2 looks at `content-length` where DATA ends the stream, not where these or trailers do.
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
