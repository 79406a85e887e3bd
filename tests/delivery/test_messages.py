"""Whatever a back end publishes is either delivered as it is, or refused with a reason."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import TEXT
from trio_sse.delivery import messages
from trio_sse.delivery.event_ids import EntryId
from trio_sse.delivery.messages import (
    COPY,
    MessageError,
    Notification,
    decode,
    user_id_problem,
    utc_now,
    with_copy,
)
from trio_sse.delivery.targets import topic

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
USER = st.integers(-(2**63), 2**64 - 1) | st.text(
    st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=messages.MAX_USER_ID
)
FIELDS = st.dictionaries(
    TEXT.filter(lambda name: name not in ("user_id", "topic", "event", "created_at")), JSON, max_size=4
)


def read(message: Any, max_bytes: int = 65536) -> Notification:
    return decode(message if isinstance(message, bytes) else json.dumps(message).encode(), max_bytes)


def without_new_created_at(notification: Notification, published: dict[str, Any]) -> dict[str, Any]:
    carried: dict[str, Any] = json.loads(notification.data)
    if "created_at" not in published:
        assert RFC3339.fullmatch(carried.pop("created_at"))
    return carried


@pytest.mark.parametrize(
    ("message", "users", "topics"),
    [
        ({"topic": "news"}, (), ("news",)),
        ({"topic": 17}, (), ("17",)),
        ({"topic": ["news", "orders/17", "news"]}, (), ("news", "orders/17")),
        ({"user_id": 1, "topic": "1"}, ("1",), ("1",)),
        ({"user_id": None, "topic": "news"}, (), ("news",)),
        ({"user_id": 1, "topic": None}, ("1",), ()),
        ({"user_id": "*", "topic": "news"}, None, ()),
    ],
)
def test_a_message_is_for_users_and_topics(
    message: dict[str, Any], users: tuple[str, ...] | None, topics: tuple[str, ...]
) -> None:
    notification = read(message)
    assert (notification.users, notification.topics) == (users, topics)
    assert without_new_created_at(notification, message) == message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"user_id": None}, "neither user_id nor topic"),
        ({"message": "x"}, "neither user_id nor topic"),
        ({"topic": ""}, "topic is empty"),
        ({"topic": []}, "topic is an empty list"),
        ({"topic": "orders/*"}, 'topic has a "\\*"'),
        ({"user_id": 1, "topic": ["a", "*"]}, 'topic has a "\\*"'),
        ({"topic": "a\0b"}, "topic has control characters"),
        ({"topic": "a" * 129}, "topic has 129 characters"),
        ({"topic": {"name": "news"}}, "topic"),
        ({"user_id": 1, "topic": [["news"]]}, "topic"),
        ({"user_id": [], "topic": "news"}, "user_id is an empty list"),
    ],
)
def test_a_topic_follows_the_rules_of_a_user_id(message: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        read(message)


@pytest.mark.parametrize(
    ("user_id", "users"),
    [
        (1, ("1",)),
        ("1", ("1",)),
        ("ann", ("ann",)),
        ([1, "ann"], ("1", "ann")),
        ([1, "1", 1], ("1",)),
        (-5, ("-5",)),
        ("*", None),
        (["ann", "*"], None),
        ("a" * 128, ("a" * 128,)),
        ("王", ("王",)),
    ],
)
def test_a_message_names_its_users(user_id: Any, users: tuple[str, ...] | None) -> None:
    assert read({"user_id": user_id}).users == users


@pytest.mark.parametrize("event", ["order", "Überweisung", "a b"])
def test_a_message_may_name_its_event(event: str) -> None:
    assert read({"user_id": 1, "event": event}).event == event


@pytest.mark.parametrize("event", [None, "", "message", 5, ["x"], {}, "a\nid: 9", "a\rb", "a\0b"])
def test_an_event_that_is_no_name_is_the_publishers_own_field(event: Any) -> None:
    notification = read({"user_id": 1, "event": event})
    assert notification.event is None
    assert json.loads(notification.data)["event"] == event


@pytest.mark.parametrize("event", sorted(messages.RESERVED_EVENTS))
def test_a_message_cannot_speak_for_the_service(event: str) -> None:
    with pytest.raises(MessageError, match=event):
        read({"user_id": 1, "event": event})


def test_events_the_service_says_are_reserved() -> None:
    assert {"connected", "heartbeat", "gap", "open", "error"} <= messages.RESERVED_EVENTS


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"user_id":1', "not JSON"),
        (b'{"user_id":1}}', "not JSON"),
        (b"{'user_id':1}", "not JSON"),
        (b'{"user_id":1,"x":NaN}', "not JSON"),
        (b'\xef\xbb\xbf{"user_id":1}', "not JSON: it begins with a byte order mark"),
        ('{"user_id":1}'.encode("utf-16"), "UTF-16"),
        ('{"user_id":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"user_id":1}'.encode("utf-16-be"), "UTF-16"),
        ('{"user_id":1,"x":"\xfc"}'.encode("utf-32"), "UTF-32"),
        (b'{"user_id":1,"x":"a\nb"}', "not JSON"),
        (b'{"user_id":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"user_id":1,"x":"\xff"}', r"not UTF-8 \(byte 18\)"),
        (b"[1]", "object"),
        (b"{}", "user_id"),
        (b'{"user_id":null}', "user_id"),
        (b'{"user_id":true}', "user_id"),
        (b'{"user_id":1.5}', "user_id"),
        (b'{"user_id":{}}', "user_id"),
        (b'{"user_id":[[1]]}', "user_id"),
        (b'{"user_id":[]}', "empty list"),
        (b'{"user_id":""}', "user_id is empty"),
        (b'{"user_id":["ann",""]}', "user_id is empty"),
        (b'{"user_id":"a\\nb"}', "control characters"),
        (b'{"user_id":"a\\ud83d"}', "control characters"),
        (b'{"user_id":[1,"\\ude00"]}', "control characters"),
        (b'{"user_id":1,"user_id":null}', "user_id"),
        (b'{"x":"\\ud83d"}', "user_id"),
        (b'{"user_id":1,"x":"\\ud83d}', "not JSON"),
        (b'{"user_id":1,"x":"\\ud8"}', "not JSON"),
        (b'{"user_id":"' + b"a" * 129 + b'"}', "129 characters, more than 128"),
        (b'{"user_id":' + b"9" * 129 + b"}", "128"),
        (b'{"user_id":' + b"9" * 5000 + b"}", "user_id"),
    ],
)
def test_what_cannot_be_delivered_is_refused_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(payload, 65536)


def test_a_message_may_have_exactly_the_largest_size() -> None:
    payload = b'{"user_id":1,"created_at":""}'
    assert decode(payload, len(payload)).data == payload
    with pytest.raises(
        MessageError, match=f"{len(payload)} bytes, over SSE_MAX_MESSAGE_BYTES={len(payload) - 1}"
    ):
        decode(payload, len(payload) - 1)


@pytest.mark.parametrize("created_at", ["2024-01-01T12:00:00Z", None, 17, ""])
def test_created_at_of_the_publisher_is_kept(created_at: Any) -> None:
    payload = json.dumps({"user_id": 1, "created_at": created_at}).encode()
    assert decode(payload, 65536).data == payload


def test_created_at_is_added_when_missing() -> None:
    before = utc_now()
    added = json.loads(read({"user_id": 1, "nested": {"created_at": "not mine"}}).data)["created_at"]
    assert before <= added <= utc_now()


@pytest.mark.parametrize(
    ("entry", "created_at"),
    [
        ((1_767_269_045_006, 3), "2026-01-01T12:04:05.006Z"),
        ((1_000_000_000_000, 0), "2001-09-09T01:46:40.000Z"),
        ((2**64 - 1, 0), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_an_entry_of_a_log_was_created_when_its_id_says(entry: EntryId, created_at: str) -> None:
    data = decode(b'{"user_id":1}', 65536, entry).data
    assert json.loads(data)["created_at"] == created_at


@pytest.mark.parametrize("entry", [(0, 1), (5, 0), (999_999_999_999, 0)])
def test_an_id_that_somebody_made_up_is_no_time(entry: EntryId) -> None:
    before = utc_now()
    assert before <= json.loads(decode(b'{"user_id":1}', 65536, entry).data)["created_at"] <= utc_now()


@pytest.mark.parametrize("padding", [b" ", b"\n", b"\r\n\t "])
def test_space_around_a_message_does_no_harm(padding: bytes) -> None:
    notification = decode(padding + b'{"user_id":1,"message":"}"}' + padding, 65536)
    assert without_new_created_at(notification, {}) == {"user_id": 1, "message": "}"}


@given(USER | st.lists(USER, min_size=1, max_size=4), FIELDS, st.booleans())
def test_every_json_object_with_a_user_passes_through(
    user_id: Any, fields: dict[str, Any], ascii_only: bool
) -> None:
    published = {"user_id": user_id, **fields}
    payload = json.dumps(published, ensure_ascii=ascii_only, indent=None if ascii_only else 1).encode()
    assert without_new_created_at(decode(payload, 1 << 24), published) == published


@given(
    st.binary()
    | st.binary().map(lambda junk: b'{"user_id":1,"x":"' + junk + b'"}')
    | st.binary().map(lambda junk: b'{"user_id":"' + junk + b'"}')
    | TEXT.map(str.encode)
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps({"user_id": value, "event": value}).encode())
)
def test_any_bytes_are_refused_properly_or_are_json_of_a_known_user(payload: bytes) -> None:
    try:
        notification = decode(payload, 1 << 20)
    except MessageError:
        return
    published = json.loads(payload)
    assert without_new_created_at(notification, published) == published
    assert notification.users is None or not any(map(user_id_problem, notification.users))


@pytest.mark.parametrize(
    ("user_id", "problem"),
    [("", "empty"), ("a" * 129, "129"), ("a\tb", "control"), ("a\x7f", "control"), ("\ud800", "control")],
)
def test_a_user_id_that_can_be_nobodys(user_id: str, problem: str) -> None:
    assert problem in (user_id_problem(user_id) or "")


@pytest.mark.parametrize("user_id", ["1", "a b", "王", "a\u200db", "é" * 128])
def test_a_user_id_that_can_be_somebodys(user_id: str) -> None:
    assert user_id_problem(user_id) is None


def test_the_time_is_utc_with_milliseconds() -> None:
    assert RFC3339.fullmatch(utc_now())
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= datetime.fromisoformat(utc_now()) <= datetime.now(UTC)


@pytest.mark.parametrize("value", [b"1e999", b"9" * 5000])
def test_a_number_as_event_that_fits_nowhere_is_the_publishers_own(value: bytes) -> None:
    assert decode(b'{"user_id":1,"event":%b}' % value, 65536).event is None


def deep(levels: int, inner: bytes = b"") -> bytes:
    """A message of so many arrays and objects within each other, itself counted."""
    arrays = levels - 1
    return b'{"user_id":1,"x":' + b"[" * arrays + inner + b"]" * arrays + b"}"


@pytest.mark.parametrize(
    "inner",
    [b"", b'"[[[[{{{{"', rb'"\"[[[[", "\\", "[{\\\"[{"', b"[],[],[],{}", b'{"]":"}"}', rb'"\ud83d[["'],
)
def test_the_bound_on_depth_is_the_services_own(inner: bytes) -> None:
    levels = messages.MAX_DEPTH - (inner[:1] in (b"[", b"{"))
    assert decode(deep(levels, inner), 65536).users == ("1",)
    with pytest.raises(MessageError, match="nested too deeply: more than 512"):
        decode(deep(levels + 1, inner), 65536)


def test_depth_is_not_how_many_there_are() -> None:
    for many in (b"[]," * 20_000 + b"1", b'{"a":[{}]},' * 5_000 + b"1", b'"[",' * 10_000 + b"1"):
        assert decode(b'{"user_id":1,"x":[%b]}' % many, 1 << 20).users == ("1",)


@pytest.mark.parametrize(
    ("payload", "users", "event"),
    [
        (rb'{"user_id":1,"message":"cut \ud83d"}', ("1",), None),
        (rb'{"user_id":1,"message":"\ude00\ud83d\uD83D\uDE00\ud83d\n"}', ("1",), None),
        (rb'{"user_id":1,"\ud83d":{"\udfff":["\uDBFF"]}}', ("1",), None),
        (rb'{"user_id":"a\\ud83d","message":"\ud83d"}', (r"a\ud83d",), None),
        (rb'{"user_id":["\ud83d\ude00"],"message":"\ud83d"}', ("\U0001f600",), None),
        (rb'{"user_id":1,"event":"cut \ud83d"}', ("1",), None),
        (rb'{"user_id":1,"event":"gap\ud83d"}', ("1",), None),
        (rb'{"user_id":1,"event":"\ud83d\ude00","x":"\ud83d"}', ("1",), "\U0001f600"),
        (rb'{"user_id":{"x":"\ud83d"},"user_id":5}', ("5",), None),
        (rb'{"user_id":1,"user_id":"ann"}', ("ann",), None),
        (rb'{"user_id":null,"user\u005fid":"ann"}', ("ann",), None),
        (rb'{"user_id":1,"event":"a","event":"b"}', ("1",), "b"),
        (rb'{"user_id":1,"event":"connected","event":"b"}', ("1",), "b"),
    ],
)
def test_what_every_other_parser_reads_is_delivered_as_it_is(
    payload: bytes, users: tuple[str, ...], event: str | None
) -> None:
    assert decode(payload[:-1] + b',"created_at":0}', 65536) == Notification(
        users, event, payload[:-1] + b',"created_at":0}'
    )
    assert decode(payload, 65536).data.startswith(payload[:-1] + b',"created_at":"')


TO_ANN = ("ann",)


@pytest.mark.parametrize("payload", [b"{}", b'{"message":1}', b'{"user_id":"bob"}', b'{"topic":["a","b"]}'])
def test_what_the_channel_is_for_counts_and_the_payload_need_not_say_it(payload: bytes) -> None:
    assert decode(payload, 1000, None, TO_ANN).targets == TO_ANN
    assert decode(payload, 1000, None, None).targets is None
    assert decode(payload, 1000, None, (topic("news"),)).topics == ("news",)


@pytest.mark.parametrize("payload", [b'{"user_id":{}}', b'{"user_id":1.5}', b"[]", b"{", b'{"event":"gap"}'])
def test_by_a_channel_of_a_target_the_rest_of_the_rules_is_the_same(payload: bytes) -> None:
    with pytest.raises(MessageError):
        decode(payload, 1000, None, TO_ANN)


def test_a_copy_is_for_all_that_it_names_whichever_channel_brought_it() -> None:
    payload = with_copy(b'{"user_id":["ann","bob"],"created_at":0}', "c" * 22)
    found = decode(payload, 1000, None, TO_ANN)
    assert found.targets == ("ann", "bob")
    assert found.copy == b'"%b"' % (b"c" * 22)
    assert found.data == b'{"user_id":["ann","bob"],"created_at":0}'


@given(FIELDS, USER)
def test_what_makes_copies_one_leaves_no_trace_in_what_clients_get(fields: dict[str, Any], user: Any) -> None:
    message = json.dumps({**fields, "user_id": user, "created_at": 0}).encode()
    copy = decode(with_copy(message, "-_" * 11), 100_000)
    assert copy.copy is not None
    assert copy.data == message
    assert copy.targets == decode(message, 100_000).targets


@pytest.mark.parametrize("value", ['"short"', "5", "null", '"%s"' % ("ü" * 22), '"%s"' % ("c" * 23)])
def test_a_field_of_that_name_that_is_none_of_ours_is_the_publishers(value: str) -> None:
    payload = f'{{"user_id":1,"created_at":0,"{COPY}":{value}}}'.encode()
    found = decode(payload, 1000)
    assert found.copy is None
    assert found.data == payload


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("replies:17", "replies:17"),
        ("r\u00e9ponses:\u6d88\u606f", "r\u00e9ponses:\u6d88\u606f"),
        ("", None),
        (None, None),
        (17, None),
        (["replies:17"], None),
        ({"list": "replies:17"}, None),
    ],
)
def test_the_list_that_asks_what_became_of_a_message(field: Any, expected: str | None) -> None:
    message = {"user_id": 1, "reply_to": field}
    notification = read(message)
    assert notification.reply_to == expected
    assert json.loads(notification.data)["reply_to"] == field, "it passes through as all fields do"
    assert read({"user_id": 1}).reply_to is None


@pytest.mark.parametrize("ttl", [1e308, -1e308, 5])
def test_a_time_that_is_added_takes_little_room(ttl: float) -> None:
    """A message of the greatest size stays one that is accepted."""
    message = json.dumps({"user_id": 1, "ttl": ttl}).encode()
    expires_at = decode(message, 1000).expires_at
    assert expires_at is not None
    grown = messages.with_expiry(with_copy(message, "c" * 22), expires_at)
    assert len(grown) - len(message) <= messages.ADDED_BYTES
    again = decode(grown, 1000).expires_at
    assert again is not None
    assert (again > time.time()) == (ttl > 0)
