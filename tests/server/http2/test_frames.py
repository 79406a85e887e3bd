"""h2's side of a connection: what is an error of one stream, and what of all."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypercorn.config import Config

from trio_sse.server.http2.frames import HEADER_TABLE_BYTES, ServerConnection

HEAD = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "x")]


class Pair:
    """A client that may do wrong, and the server's side."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self.client = h2.connection.H2Connection(config)
        self.server = ServerConnection(Config())
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.say()
        self.say()

    def say(self) -> list[h2.events.Event]:
        """What the server's side makes of what the client said."""
        events = self.server.receive_data(self.client.data_to_send())
        self.client.receive_data(self.server.data_to_send())
        return events


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_malformed_request_is_its_stream_s_error(pair: Pair) -> None:
    pair.client.send_headers(1, HEAD[1:])
    reset = pair.say()[-1]
    assert isinstance(reset, h2.events.StreamReset)
    assert (reset.error_code, reset.remote_reset) == (ErrorCodes.PROTOCOL_ERROR, False)
    pair.client.send_headers(3, HEAD, end_stream=True)
    assert isinstance(pair.say()[0], h2.events.RequestReceived)


def test_a_body_beyond_its_length_is_its_stream_s_error_and_leaves_the_window_as_it_was(pair: Pair) -> None:
    for stream_id in range(1, 21, 2):
        pair.client.send_headers(stream_id, [*HEAD, ("content-length", "1")])
        pair.client.send_data(stream_id, bytes(16_000))
        assert isinstance(pair.say()[-1], h2.events.StreamReset)
    assert pair.client.outbound_flow_control_window > 30_000


@pytest.mark.parametrize(
    ("announced", "sent", "trailers", "error"),
    [
        (0, None, False, False),
        (1, None, False, True),
        (0, 0, True, False),
        (5, 0, True, True),
        (1, 1, True, False),
        (2, 1, True, True),
    ],
)
def test_a_body_short_of_its_length_is_its_stream_s_error(
    pair: Pair, announced: int, sent: int | None, trailers: bool, error: bool
) -> None:
    """RFC 9113, 8.1.1: also where header fields or trailers are what ends the stream."""
    pair.client.send_headers(1, [*HEAD, ("content-length", str(announced))], end_stream=sent is None)
    if sent:
        pair.client.send_data(1, bytes(sent))
    if trailers:
        pair.client.send_headers(1, [("a", "b")], end_stream=True)
    assert any(isinstance(event, h2.events.StreamReset) for event in pair.say()) is error
    pair.client.send_headers(3, HEAD, end_stream=True)
    assert isinstance(pair.say()[0], h2.events.RequestReceived)


def test_header_fields_that_cannot_be_read_are_everybody_s_error(pair: Pair) -> None:
    pair.client.send_headers(1, HEAD)
    pair.say()
    with pytest.raises(ProtocolError):
        pair.server.receive_data(b"\0\0\x01\x01\x05\0\0\0\x01\xff")


def test_a_goaway_lets_streams_go_on(pair: Pair) -> None:
    pair.client.send_headers(1, HEAD)
    pair.say()
    pair.server.receive_data(b"\0\0\x08\x06\0\0\0\0\0" + bytes(8) + b"\0\0\x08\x07\0\0\0\0\0" + bytes(8))
    assert pair.server.data_to_send(), "what was to be sent, the answer to a PING, is sent"
    pair.server.send_headers(1, [(":status", "200")])
    pair.server.close_connection()
    pair.server.send_data(1, b"ok", end_stream=True)
    assert pair.server.data_to_send()


def test_more_streams_than_are_allowed_are_no_error_here(pair: Pair) -> None:
    assert pair.client.remote_settings.max_concurrent_streams == Config.h2_max_concurrent_streams
    pair.client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    pair.client.remote_settings.acknowledge()
    for stream_id in range(1, 401, 2):
        pair.client.send_headers(stream_id, HEAD)
    assert len(pair.say()) == 200


@pytest.mark.parametrize("size", [0, 100, 4096, 65_536, 2**31])
def test_the_table_of_header_fields_is_bounded(pair: Pair, size: int) -> None:
    pair.client.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
    pair.say()
    assert pair.server.encoder.header_table_size == min(size, HEADER_TABLE_BYTES)
    for stream_id in (1, 3):
        pair.client.send_headers(stream_id, HEAD, end_stream=True)
        pair.say()
        pair.server.send_headers(stream_id, [(":status", "200"), ("a", "b" * 50)], end_stream=True)
        events = pair.client.receive_data(pair.server.data_to_send())
        assert isinstance(events[0], h2.events.ResponseReceived)


def test_a_stream_that_depends_on_itself_is_nobody_s_error(pair: Pair) -> None:
    pair.client.send_headers(1, HEAD)
    pair.say()
    pair.server.receive_data(b"\0\0\x05\x02\0\0\0\0\x01" + b"\0\0\0\x01" + b"\x01")
    assert not pair.server.is_over(1)


def test_reset_is_only_what_is_not_over(pair: Pair) -> None:
    pair.client.send_headers(1, HEAD, end_stream=True)
    pair.say()
    assert not pair.server.is_over(1)
    pair.server.try_to_reset(1, ErrorCodes.NO_ERROR)
    assert pair.server.data_to_send()
    assert pair.server.is_over(1)
    pair.server.try_to_reset(1, ErrorCodes.NO_ERROR)
    assert not pair.server.data_to_send()
    assert pair.server.is_over(99)
