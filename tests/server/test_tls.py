"""TLS of one connection, in memory."""

from __future__ import annotations

import ssl

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.inside import stream_pair
from tests.support.secure import VERSIONS, Client, client_context, heard, server_context, shaken
from trio_sse.server.tls import PIECE, Begun, Tls

versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def test_a_handshake_may_come_byte_by_byte() -> None:
    client, tls = Client(), Tls(server_context())
    done = False
    while not done:
        for byte in client.said():
            assert not done
            tls.feed(bytes([byte]))
            done = tls.shake()
        if not done:
            client.shake(tls.take_outgoing())
    assert tls.read() is None
    assert not tls.speaks_http2


@pytest.mark.parametrize(("alpn", "http2"), [(["h2", "http/1.1"], True), (["http/1.1"], False), ([], False)])
def test_http2_is_agreed_upon_in_the_handshake(alpn: list[str], http2: bool) -> None:
    assert shaken(Client(client_context(ssl.TLSVersion.TLSv1_3, *alpn))).speaks_http2 is http2


def test_what_is_no_handshake_is_refused_with_an_alert() -> None:
    tls = Tls(server_context())
    tls.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        tls.shake()


@versions
@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 1_000_000])
def test_what_is_sealed_in_pieces_is_opened_whole(version: ssl.TLSVersion, size: int) -> None:
    client = Client(client_context(version))
    tls = shaken(client)
    data = b"0123456789" * (size // 10) + b"x" * (size % 10)
    assert client.heard(tls.seal(data)) == data
    assert client.heard(tls.seal_end(b"last")) == b"last"
    assert client.ended
    assert client.heard(b"") == b""


@versions
def test_what_the_client_says_is_read_until_it_leaves(version: ssl.TLSVersion) -> None:
    client = Client(client_context(version))
    tls = shaken(client)
    assert tls.read() is None
    tls.feed(client.said(b"x" * 100_000)[:-1])
    read = tls.read()
    assert read is not None
    assert 100_000 - 16_384 <= len(read) < 100_000, "all but the last record"
    assert set(read) == set(b"x")
    tls = shaken(client := Client(client_context(version)))
    tls.feed(client.said(b"hello"))
    assert tls.read() == b"hello"
    tls.feed(client.left())
    assert tls.read() == b""
    client.heard(tls.seal_end())
    assert client.ended, "the notice is answered"


def test_what_was_changed_on_its_way_is_an_error() -> None:
    client = Client()
    tls = shaken(client)
    said = bytearray(client.said(b"hello"))
    said[-1] ^= 1
    tls.feed(bytes(said))
    with pytest.raises(ssl.SSLError):
        tls.read()
    assert tls.take_outgoing(), "an alert says so"


@versions
@settings(max_examples=20)  # each makes a handshake
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10), st.integers(1, 400), st.booleans())
async def test_a_stream_of_trio_goes_on_where_it_was(
    version: ssl.TLSVersion, parts: list[bytes], most: int, early: bool
) -> None:
    """With what was read before, what was fed already, and what is still to be written."""
    client = Client(client_context(version))
    tls = shaken(client)
    tls.feed(client.said(b"read before"))
    before = tls.read()
    assert before == b"read before"
    if early and parts:
        tls.feed(client.said(parts[0]))
    async with stream_pair() as (near, far):
        begun = Begun(tls, near)
        begun.put_back(before)
        await begun.stream.do_handshake()
        assert begun.stream.selected_alpn_protocol() is None
        for part in parts[early:]:
            await far.send_all(client.said(part))
        expected = before + b"".join(parts)
        received = b""
        while len(received) < len(expected):
            received += await begun.stream.receive_some(most)
        assert received == expected
        for part in parts:
            await begun.stream.send_all(part)
        await begun.stream.send_all(b"END")
        assert await heard(client, far, b"END") == b"".join([*parts, b"END"])
        await far.send_all(client.left())
        assert await begun.stream.receive_some(most) == b""


async def test_a_stream_of_trio_sees_a_client_that_is_gone() -> None:
    client = Client()
    async with stream_pair() as (near, far):
        begun = Begun(shaken(client), near)
        await far.send_all(client.said(b"hello"))
        await far.send_eof()
        assert await begun.stream.receive_some() == b"hello"
        assert await begun.stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await begun.stream.send_all(b"x")
