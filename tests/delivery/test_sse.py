"""Fields in, bytes out; an independent parser gives back what went in."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import TEXT, events
from trio_sse.delivery import sse

ONE_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))
# Line ends, colons and field names are where an encoder goes wrong, so they come often.
TRICKY = st.lists(
    st.sampled_from(["\r", "\n", "\r\n", "data: ", "id: ", "event: x", "retry: 1", ":", " ", "\0", "é", "a"])
).map("".join)


def unix_lines(text: str) -> str:
    return re.sub("\r\n|\r", "\n", text)


@pytest.mark.parametrize(
    ("given_event", "expected"),
    [
        (sse.event(b"{}"), b"data: {}\n\n"),
        (sse.event(b""), b"data: \n\n"),
        (sse.event(b"x", name="gap"), b"event: gap\ndata: x\n\n"),
        (sse.event(b"x", id="7-1"), b"id: 7-1\ndata: x\n\n"),
        (sse.event(b"x", name="gap", id="7-1"), b"id: 7-1\nevent: gap\ndata: x\n\n"),
        (sse.event(b"a\nb\r\nc\rd"), b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (sse.event("é".encode()), b"data: \xc3\xa9\n\n"),
    ],
)
def test_an_event_has_these_bytes(given_event: bytes, expected: bytes) -> None:
    assert given_event == expected


def test_retry_is_a_field_that_dispatches_nothing_by_itself() -> None:
    assert sse.retry(3000) == b"retry: 3000\n"
    (event,) = events(sse.retry(3000) + sse.event(b"x"))
    assert event.retry == 3000


@given(TEXT | TRICKY, st.none() | ONE_LINE, st.none() | ONE_LINE)
def test_what_goes_in_comes_out_of_an_independent_parser(data: str, name: str | None, id: str | None) -> None:  # noqa: A002
    (event,) = events(sse.event(data.encode(), name=name, id=id))
    assert event.data == unix_lines(data)
    assert event.event == (name or "message")
    assert event.id == (id or "")


@given(TEXT | TRICKY, st.none() | ONE_LINE, ONE_LINE)
def test_a_message_is_an_event_whose_name_and_id_are_not_looked_at(
    data: str,
    name: str | None,
    id: str,  # noqa: A002
) -> None:
    assert sse.message(data.encode(), id, name) == sse.event(data.encode(), name=name, id=id)


@given(st.lists(TRICKY, max_size=4))
def test_no_data_makes_a_second_event_or_another_field(all_data: list[str]) -> None:
    stream = b"".join(sse.event(data.encode()) for data in all_data)
    parsed = events(stream)
    assert [event.data for event in parsed] == [unix_lines(data) for data in all_data]
    assert {(event.event, event.id, event.retry) for event in parsed} <= {("message", "", None)}


@pytest.mark.parametrize("character", ["\r", "\n", "\0"])
@pytest.mark.parametrize("field", ["name", "id"])
def test_a_name_or_id_that_would_start_another_field_is_refused(field: str, character: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a field"):
        sse.event(b"x", **{field: f"a{character}b"})


@given(st.lists(st.binary(min_size=1), max_size=5))
def test_chunks_are_read_back_by_an_independent_http_parser(parts: list[bytes]) -> None:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    parser.receive_data(b"".join(map(sse.chunk, parts)) + sse.LAST_CHUNK)
    body = b""
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        body += event.data if isinstance(event, h11.Data) else b""
    assert body == b"".join(parts)


@given(TRICKY, ONE_LINE.filter(str))
def test_the_name_of_an_event_is_found_again(data: str, name: str) -> None:
    assert sse.event_name(sse.retry(5) + sse.event(data.encode(), name=name)) == name
    assert sse.event_name(sse.retry(5) + sse.event(data.encode())) == ""
