"""Who gets a stream, and whose."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import TEXT, settings
from trio_sse.access.admission import Accepted, Admission
from trio_sse.access.problem import Refused
from trio_sse.access.request import StreamRequest, read_request
from trio_sse.delivery.messages import name_problem, topic_problem, user_id_problem
from trio_sse.delivery.resume import Start
from trio_sse.settings import Settings

ANY_ORIGIN = settings()
LISTED = settings(cors_origins=("https://a.example", "https://b.example"))


async def answer_to(
    query: bytes, headers: Iterable[tuple[bytes, bytes]], chosen: Settings
) -> Accepted | Refused:
    return await Admission(chosen).admit(query, headers, str)


@pytest.mark.parametrize(
    ("query", "user_id"),
    [
        (b"", None),
        (b"user_id=", None),
        (b"user_id", None),
        (b"other=5", None),
        (b"user_id=42", "42"),
        (b"user_id=a.b_c-d", "a.b_c-d"),
        (b"x=1&user_id=42&y", "42"),
        (b"user_id=2&user_id=2", "2"),
        (b"user%5Fid=5", "5"),
        (b"%75ser_id=5", "5"),
        (b"user_id=a+b", "a b"),
        (b"user_id=%E7%8E%8B", "王"),
        (b"_=123&t=5&userids=6&id=7&user=8&uid=9&x-user-id=10&my_user_id=11&=12", None),
        (b"user_id=" + b"a" * 128, "a" * 128),
    ],
)
def test_the_user_of_a_stream(query: bytes, user_id: str | None) -> None:
    answer = read_request(query, [], ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert answer.user_id == user_id


@pytest.mark.parametrize(
    ("query", "user_id", "topics"),
    [
        (b"user_id=1", "1", ()),
        (b"topic=news", None, ("news",)),
        (b"user_id=1&topic=orders/17&topic=news", "1", ("orders/17", "news")),
        (b"topic=orders%2F17&user_id=1", "1", ("orders/17",)),
        (b"topic=b&topic=a&topic=b", None, ("b", "a")),
        (b"topic[]=b&topic[]=a", None, ("b", "a")),
        (b"topic%5B%5D=b&topic%5B0%5D=a&topic=c&topic[17]=b", None, ("b", "a", "c")),
        (b"topic=a,b", None, ("a,b",)),
        (b"topic=a+b&topic=%E7%8E%8B&topic=%D9%A1", None, ("a b", "王", "١")),
        (b"topic=1&user_id=1", "1", ("1",)),
        (b"user_id=&topic=news", None, ("news",)),
        (b"topic_id=1&my-topic=2&topical=3&subtopics=4&topic.name=5", None, ()),
        (b"topic=" + b"a" * 128, None, ("a" * 128,)),
        (b"topic=" + b"/" * 128, None, ("/" * 128,)),
        (
            b"&".join([*(b"topic=%d" % number for number in range(100)), b"topic=99", *[b"a=1"] * 99]),
            None,
            tuple(map(str, range(100))),
        ),
    ],
)
def test_the_topics_of_a_stream(query: bytes, user_id: str | None, topics: tuple[str, ...]) -> None:
    answer = read_request(query, [], ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert (answer.user_id, answer.topics) == (user_id, topics)


def test_there_may_be_as_many_topics_as_the_settings_say() -> None:
    query = b"&".join(b"topic=%d" % number for number in range(700))
    for most in (1, 699, 700, 10_000):
        answer = read_request(query, [], settings(max_topics=most))
        assert isinstance(answer, StreamRequest) is (most >= 700)
        if isinstance(answer, Refused):
            assert f"{most} topics (SSE_MAX_TOPICS)" in answer.detail


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (b"user_id=*", "everybody"),
        (b"user_id=%2A", "everybody"),
        (b"user_id=" + b"a" * 129, "129 characters"),
        (b"user_id=%0A", "control characters"),
        (b"user_id=%00", "control characters"),
        (b"user_id=%FF", "query"),
        (b"user_id=\xff", "query"),
        (b"&".join([b"a=1"] * 201), "up to 100 parameters"),
        (b"topic=*", "by their names"),
        (b"topic=orders/*", "by their names"),
        (b"topic=orders%2F%2A%2A", "by their names"),
        (b"topic=a&topic=**", "by their names"),
        (b"topic=", "topic is empty"),
        (b"user_id=1&topic", "topic is empty"),
        (b"topic=a&topic[]=", "topic is empty"),
        (b"topic=" + b"a" * 129, "129 characters"),
        (b"topic=%0A", "control characters"),
        (b"topic=a&topic=%00", "control characters"),
        (b"topic=%ED%A0%80", "query"),
        (b"topic=%FF", "query"),
        (b"&".join(b"topic=%d" % number for number in range(101)), "more than 100 topics (SSE_MAX_TOPICS)"),
        (b"&".join(b"topic=%d" % number for number in range(999)), "100 topics (SSE_MAX_TOPICS)"),
        (b"topics=news", "its name is topic"),
        (b"topics[]=news", "its name is topic"),
        (b"Topic=news", "its name is topic"),
        (b"TOPIC=news", "its name is topic"),
        (b"topic[a]=news", "its name is topic"),
        (b"topic[][]=news", "its name is topic"),
        (b"topic[-1]=news", "its name is topic"),
        (b"[topic]=news", "its name is topic"),
        (b"_topic=news", "its name is topic"),
        (b"topic%20=news", "its name is topic"),
        (b"x=1&amp;topic=news", "its name is topic"),
        (b"topic=news&Topics=x", "its name is topic"),
        (b"user_id=1&user_id=2", "user_id twice"),
        (b"user_id=&user_id=2", "user_id twice"),
        (b"access_token=1&access_token=2", "access_token twice"),
        (b"userId=5", "its name is user_id"),
        (b"userid=5", "its name is user_id"),
        (b"userID=5", "its name is user_id"),
        (b"USER_ID=5", "its name is user_id"),
        (b"User-Id=5", "its name is user_id"),
        (b"user_id[]=5", "its name is user_id"),
        (b"user_id%5B%5D=5", "its name is user_id"),
        (b"user_id[0]=5&x", "its name is user_id"),
        (b"[user_id]=5", "its name is user_id"),
        (b"user__id=5", "its name is user_id"),
        (b"_user_id=5", "its name is user_id"),
        (b"+user_id=5", "its name is user_id"),
        (b"?user_id=5", "its name is user_id"),
        (b"user%2Did=", "its name is user_id"),
        (b"x=1&amp;user_id=5", "its name is user_id"),
        (b"user_id=5&userId=5", "its name is user_id"),
        (b"accessToken=x", "its name is access_token"),
        (b"access-token=x", "its name is access_token"),
        (b"last_event_id[]=7-1", "its name is last_event_id"),
        (b"last.event.id=7-1", "its name is last_event_id"),
    ],
)
def test_a_refusal_is_a_problem_document_that_says_why(query: bytes, detail: str) -> None:
    answer = read_request(query, [], ANY_ORIGIN)
    assert isinstance(answer, Refused)
    assert answer.status == 400
    document = json.loads(answer.body)
    assert detail in document["detail"]
    assert document == {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": answer.detail}
    assert dict(answer.headers) == {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "access-control-allow-origin": "*",
    }


async def test_a_stream_has_these_headers() -> None:
    assert dict((await answer_to(b"", [], ANY_ORIGIN)).headers) == {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "access-control-allow-origin": "*",
    }


@pytest.mark.parametrize(
    ("headers", "last_event_id"),
    [
        ([], None),
        ([(b"last-event-id", b"")], None),
        ([(b"last-event-id", b"7-1")], "7-1"),
        ([(b"Last-Event-ID", b"7-1")], "7-1"),
        ([(b"LAST-EVENT-ID", b"\xff")], "\ufffd"),
    ],
)
def test_the_position_a_stream_resumes_from(
    headers: list[tuple[bytes, bytes]], last_event_id: str | None
) -> None:
    for query in (b"", b"user_id=ann", b"user_id=ann&x=y"):
        answer = read_request(query, headers, ANY_ORIGIN)
        assert isinstance(answer, StreamRequest)
        assert answer.start.last_event_id == last_event_id


@pytest.mark.parametrize(
    ("query", "header", "last_event_id"),
    [
        (b"last_event_id=7-1", b"", "7-1"),
        (b"user_id=ann&last_event_id=7-1%2F9f3c12ab77de.2", b"", "7-1/9f3c12ab77de.2"),
        (b"last_event_id=", b"", None),
        (b"last_event_id=7-1&last_event_id=8-1", b"", "8-1"),
        (b"lastEventId=7-1", b"", "7-1"),
        (b"user_id=ann&lastEventID=7-1", b"", "7-1"),
        (b"last-event-id=7-1", b"", "7-1"),
        (b"Last-Event-ID=7-1", b"", "7-1"),
        (b"LAST_EVENT_ID=7-1", b"", "7-1"),
        (b"lasteventid=7-1", b"", "7-1"),
        (b"last%5Fevent%5fid=7-1", b"", "7-1"),
        (b"last_event_id=7-1&user_id=ann&lastEventId=8-1", b"", "8-1"),  # the polyfill's own comes last
        (b"lastEventId=8-1&last_event_id=", b"", "8-1"),
        (b"lastEventId=7-1", b"9-0", "9-0"),
        (b"last_event_id=7-1", b"9-0", "9-0"),  # the query is that of the first time
    ],
)
def test_a_page_that_was_loaded_anew_tells_its_position_in_the_query(
    query: bytes, header: bytes, last_event_id: str | None
) -> None:
    answer = read_request(query, [(b"last-event-id", header)], ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert answer.start.last_event_id == last_event_id


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (b"", None),
        (b"user_id=a", None),
        (b"access_token=", None),
        (b"access_token=a.b.c&user_id=a", "a.b.c"),
        (b"access_token=x&access_token=x", "x"),
    ],
)
def test_the_token_of_the_query(query: bytes, token: str | None) -> None:
    answer = read_request(query, [], ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert answer.token == token


@pytest.mark.parametrize(
    ("headers", "name", "value"),
    [
        ([(b"Cookie", b"a=1"), (b"cookie", b"b=2")], b"cookie", b"a=1; b=2"),
        ([(b"cookie", b"a=1"), (b"cookie", b"b=2")], b"cookie", b"a=1; b=2"),
        (
            [(b"X-Forwarded-For", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2, 3.3.3.3")],
            b"x-forwarded-for",
            b"1.1.1.1, 2.2.2.2, 3.3.3.3",
        ),
        ([(b"Accept", b"*/*")], b"accept", b"*/*"),
    ],
)
def test_lines_of_one_name_are_one_field(
    headers: list[tuple[bytes, bytes]], name: bytes, value: bytes
) -> None:
    answer = read_request(b"", headers, ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert answer.fields[name] == value


@pytest.mark.parametrize("query", [b"", b"user_id=*"])
async def test_accepted_and_refused_alike_tell_a_listed_page_that_it_may_read(query: bytes) -> None:
    answer = await answer_to(query, [(b"Origin", b"https://a.example")], LISTED)
    assert ("access-control-allow-origin", "https://a.example") in answer.headers


@given(TEXT.filter(lambda text: text != "*"))
def test_a_usable_user_id_is_accepted_exactly(user_id: str) -> None:
    answer = read_request(f"user_id={quote(user_id, safe='')}".encode(), [], ANY_ORIGIN)
    if user_id_problem(user_id or "1"):
        assert isinstance(answer, Refused)
    else:
        assert isinstance(answer, StreamRequest)
        assert answer.user_id == (user_id or None)


@pytest.mark.parametrize(
    ("query", "unfilled"),
    [
        (b"", None),
        (b"user_id=7", None),
        (b"user_id=ann%20b", None),
        (b"user_id=nullable", None),
        (b"user_id=nan-7", None),
        (b"user_id=%D9%A1", None),
        (b"user_id=", "empty"),
        (b"user_id", "empty"),
        (b"x=1&user_id=&y", "empty"),
        (b"user_id=undefined", "undefined"),
        (b"user_id=null", "null"),
        (b"user_id=None", "none"),
        (b"user_id=NaN", "nan"),
        (b"user_id=[object%20Object]", "[object object]"),
        (b"user_id=%5Bobject+Object%5D", "[object object]"),
        (b"user_id={{id}}", "a template"),
        (b"user_id=%7B%7B+user.id+%7D%7D", "a template"),
        (b"user_id=${id}", "a template"),
        (b"user_id=:id", "a template"),
        (b"user_id=<id>", "a template"),
        (b"user_id=%25s", "a template"),
    ],
)
def test_a_user_id_that_was_not_filled_in_is_taken_and_noticed(query: bytes, unfilled: str | None) -> None:
    answer = read_request(query, [], ANY_ORIGIN)
    assert isinstance(answer, StreamRequest)
    assert answer.unfilled == unfilled
    assert (answer.user_id is None) == (query == b"" or unfilled == "empty")


@given(st.lists(TEXT, max_size=5))
def test_usable_topics_are_followed_exactly(topics: list[str]) -> None:
    query = "&".join(f"topic={quote(topic, safe='')}" for topic in topics).encode()
    answer = read_request(query, [], ANY_ORIGIN)
    if any("*" in topic or name_problem("topic", topic) for topic in topics):
        assert isinstance(answer, Refused)
    else:
        assert isinstance(answer, StreamRequest)
        assert answer.topics == tuple(dict.fromkeys(topics))


@given(
    st.from_regex(
        rb"user_id=[a1._-]{1,130}(&topic=([a%2Ff/*+._-]|%[0-7][0-9A-F]){1,130}){0,5}", fullmatch=True
    )
)
def test_what_is_written_as_usual_is_read_as_anything_else(query: bytes) -> None:
    bounded = settings(max_topics=3)
    usual, other = read_request(query, [], bounded), read_request(query + b"&and=more", [], bounded)
    assert usual == other or (isinstance(usual, Refused) and isinstance(other, Refused))


@given(st.sampled_from(["user_id", "topic", "last_event_id", "access_token"]), st.data())
def test_a_name_of_ours_in_other_clothes_is_never_the_default_user(name: str, data: st.DataObject) -> None:
    dressed = "".join(
        data.draw(st.sampled_from([letter, letter.upper()]))
        if letter != "_"
        else data.draw(st.sampled_from(["_", "-", "", "__", "[]", "[_]"]))
        for letter in name
    ) + data.draw(st.sampled_from(["", "[]", "[0]", "_"]))
    for spelled in (dressed, quote(dressed, safe=""), "".join(f"%{ord(letter):02X}" for letter in dressed)):
        answer = read_request(f"x=1&{spelled}=5".encode(), [], ANY_ORIGIN)
        if isinstance(answer, Refused):
            assert f"its name is {name}," in answer.detail
        else:
            assert "5" in (answer.user_id, answer.start.last_event_id, answer.token, *answer.topics)


NAMES = st.sampled_from([b"origin", b"last-event-id", b"Host"]) | st.binary()


@given(
    st.binary() | st.tuples(st.sampled_from([b"user_id=", b"topic="]), st.binary()).map(b"".join),
    st.lists(st.tuples(NAMES, st.binary())),
)
async def test_no_bytes_make_it_raise_or_accept_a_user_or_topic_that_is_none(
    query: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    for chosen in (ANY_ORIGIN, LISTED):
        answer = read_request(query, headers, chosen)
        if isinstance(answer, StreamRequest):
            assert answer.user_id is None or user_id_problem(answer.user_id) is None
            assert answer.user_id != "*"
            assert not any(map(topic_problem, answer.topics))
        else:
            json.loads(answer.body)
        response_headers = (await answer_to(query, headers, chosen)).headers
        assert not any(set(name + value) & set("\r\n\0") for name, value in response_headers)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("query", "start"),
    [
        (b"rewind=20", Start(rewind=20)),
        (b"user_id=1&rewind=0", Start()),
        (b"since=60", Start(seconds=60.0)),
        (b"since=0.5", Start(seconds=0.5)),
        (b"since=1799999990", Start(seconds=10.0)),
        (b"since=1800000010.5", Start(seconds=0.0)),
        (b"since=2027-01-15T07:59:50Z", Start(seconds=10.0)),
        (b"since=2027-01-15T08:59:50.000%2B01:00", Start(seconds=10.0)),
        (b"since=2027-01-15t07:59:50z", Start(seconds=10.0)),
        (b"snapshot=true", Start(snapshot=True)),
        (b"snapshot=1&rewind=3", Start(rewind=3, snapshot=True)),
        (b"snapshot=false", Start()),
        (b"last_event_id=7-1&rewind=3&snapshot=true", Start("7-1", 3, None, True)),
        (b"rewind=&since=", Start()),
    ],
)
def test_a_query_may_say_where_the_stream_begins(
    query: bytes, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    request = read_request(query, [], settings())
    assert isinstance(request, StreamRequest)
    assert request.start == start


def test_a_browser_that_comes_back_begins_where_it_was() -> None:
    request = read_request(b"rewind=5&snapshot=true", [(b"Last-Event-ID", b"7-1")], settings())
    assert isinstance(request, StreamRequest)
    assert request.start == Start("7-1")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (b"rewind=-1", "rewind"),
        (b"rewind=1.5", "rewind"),
        (b"rewind=99999999999999999999999999999999", "rewind"),
        (b"rewind=%D9%A3", "rewind"),
        (b"since=yesterday", "since"),
        (b"since=2027-01-15", "since"),
        (b"since=2027-01-15T07:59:50", "since"),
        (b"since=NaN", "since"),
        (b"since=-5", "since"),
        (b"since=1e400", "since"),
        (b"since=1799999990000", "milliseconds"),
        (b"since=2027-01-15T08:59:50+01:00", "%2B"),
        (b"since=5&rewind=5", "rewind and since"),
        (b"snapshot=maybe", "snapshot"),
        (b"Rewind=5", "rewind"),
        (b"rewind=5&rewind=6", "rewind"),
    ],
)
def test_a_start_that_cannot_be_read_is_refused(query: bytes, named: str) -> None:
    refusal = read_request(query, [], settings())
    assert isinstance(refusal, Refused)
    assert refusal.status == 400
    assert named in json.loads(refusal.body)["detail"]
