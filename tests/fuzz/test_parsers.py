"""What the parsers make of input with a grammar of its own, beside what each one's own tests try."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from tests.access.test_topics import allows
from tests.fuzz.inputs import ENTRIES, PAYLOADS, QUERIES, damaged, lawful_request, request
from tests.server.test_http1 import ask, asked
from tests.support.inside import settings
from trio_sse.access.problem import Refused
from trio_sse.access.request import StreamRequest, read_request
from trio_sse.access.topics import Grants, entry_problem
from trio_sse.delivery import sse
from trio_sse.delivery.messages import (
    RESERVED_EVENTS,
    MessageError,
    decode,
    topic_problem,
    user_id_problem,
)
from trio_sse.server.http1 import Head, OtherRequest, TooLarge

MAX_BYTES = 65536
SETTINGS = settings(max_topics=3)


@given(PAYLOADS)
def test_a_payload_is_refused_or_becomes_an_event_with_all_its_fields(payload: bytes) -> None:
    try:
        notification = decode(payload, MAX_BYTES)
    except MessageError:
        return
    assert notification.users is None or not any(map(user_id_problem, notification.users))
    assert notification.event not in RESERVED_EVENTS
    assert sse.event(notification.data, name=notification.event).decode()
    try:
        published = json.loads(payload, parse_int=str, parse_float=str)
        carried = json.loads(notification.data, parse_int=str, parse_float=str)
    except RecursionError:  # nested more deeply than this process can read at this moment
        return
    assert {"created_at": carried["created_at"], **published} == carried


@given(lawful_request() | damaged(lawful_request()) | request(), st.data())
async def test_a_request_is_read_alike_in_one_piece_and_in_two(received: bytes, data: st.DataObject) -> None:
    """In one piece most requests for streams are read by a pattern, in two pieces all are read by h11."""
    received = received[: received.find(b"\r\n\r\n") + 4] if b"\r\n\r\n" in received else received
    cut = data.draw(st.integers(1, max(1, len(received) - 1)))
    whole, in_two = await ask(received), await ask(received[:cut], received[cut:])
    if isinstance(whole, TooLarge):  # in two pieces the first may be refused for what it is
        assert isinstance(in_two, TooLarge | OtherRequest)
        return
    assert type(whole) is type(in_two)
    if isinstance(whole, Head) and isinstance(in_two, Head):
        assert (asked(whole), whole.http11) == (asked(in_two), in_two.http11)
    elif isinstance(whole, OtherRequest):
        assert whole.received == received


@given(st.lists(ENTRIES, max_size=5), ENTRIES)
def test_entries_are_patterns_or_none_and_a_set_of_them_allows_what_one_of_them_does(
    entries: list[str], topic: str
) -> None:
    good = [entry for entry in entries if entry_problem(entry) is None]
    grants = Grants(good)
    for name in (topic, *entries):
        assert grants.allows(name) is any(allows(entry, name) for entry in good)
    assert not any(map(topic_problem, grants.names))


@given(QUERIES)
def test_a_query_names_usable_topics_or_is_refused(query: bytes) -> None:
    answer = read_request(query, [], SETTINGS)
    if isinstance(answer, Refused):
        assert answer.status == 400
        assert json.loads(answer.body)["detail"] == answer.detail
        assert answer.detail.isprintable()
        return
    assert isinstance(answer, StreamRequest)
    assert not any(map(topic_problem, answer.topics))
    given_topics = [
        value
        for name, value in parse_qsl(query.decode(), keep_blank_values=True)
        if re.fullmatch(r"topic(\[[0-9]*\])?", name)
    ]
    assert answer.topics == tuple(dict.fromkeys(given_topics))
    assert len(answer.topics) <= SETTINGS.max_topics
