"""`POST /publish`: who may, what is taken, and what the answer says."""

from __future__ import annotations

import gzip
import json
import secrets
import tracemalloc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quart.testing.client import QuartClient
from werkzeug.datastructures import Headers

from tests.support.collector import traceparent
from tests.support.inside import Client, client_of, opened, settings, turns_of_others
from trio_sse.broker.publisher import Publisher, UnavailableError
from trio_sse.delivery import messages
from trio_sse.delivery.messages import Notification
from trio_sse.service import Service
from trio_sse.web.app import App
from trio_sse.web.publish import MAX_KEY, MAX_MESSAGES, _read

ONE = {"authorization": "Bearer one"}


def anything(notification: Notification) -> None:
    """What may be published."""


def message(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"user_id": "ann", "n": number, "created_at": 0, **fields}


def new_service(port: int = 1, **values: Any) -> Service:
    channel = f"post-{secrets.token_hex(4)}"
    given = {"redis_host": "127.0.0.1", "redis_port": port, "redis_channel": channel, **values}
    return Service(settings(**{"publish_tokens": "one, two ,,", **given}))


@pytest.fixture
async def service(valkey: int) -> AsyncIterator[Service]:
    service = new_service(valkey)
    async with App(service).test_app():
        yield service


async def post(client: QuartClient, data: Any, **headers: str) -> tuple[int, Any, Any]:
    body = data if isinstance(data, bytes) else json.dumps(data)
    given = {**ONE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    response = await client.post("/publish", data=body, headers=given)
    return response.status_code, json.loads(await response.get_data()), response.headers


def numbers(reader: Client) -> list[int]:
    return [json.loads(data)["n"] for data in reader.data[1:]]


async def test_the_trace_of_a_sampled_request_is_that_of_its_messages(
    valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    service = new_service(valkey, traces_per_second=10)
    lines = [("tracestate", "a=1"), ("tracestate", "b=2")]  # of one field
    async with App(service).test_app():
        client, reader = client_of(service), Client(opened(service, "ann"))
        for sampled in (True, False):
            headers = Headers([*ONE.items(), ("traceparent", traceparent(sampled=sampled)), *lines])
            answer = await client.post("/publish", data=json.dumps(message()), headers=headers)
            assert answer.status_code == 200
    told, untold = [json.loads(data) for data in reader.data[1:3]]
    assert (told["traceparent"], told["tracestate"]) == (traceparent(), "a=1,b=2")
    assert "traceparent" not in untold


async def test_a_message_is_delivered_and_the_answer_says_to_how_many(
    service: Service, client: QuartClient
) -> None:
    readers = [Client(opened(service, "ann")) for _ in range(2)]
    status, told, headers = await post(client, message())
    assert status == 200
    assert headers["content-type"] == "application/json"
    (one,) = told["messages"]
    assert one["connections"] == {"took": 2, "buffered": 0, "dropped": 0}
    assert f"id: {one['id']}".encode() in readers[0].received
    assert told["repeated"] is False
    assert [numbers(reader) for reader in readers] == [[1], [1]]


async def test_a_list_is_published_in_order(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    reader.busy = True
    status, told, _ = await post(client, [message(number) for number in range(12)])
    assert status == 200
    ways = [one["connections"] for one in told["messages"]]
    assert ways[:10] == [{"took": 0, "buffered": 1, "dropped": 0}] * 10
    assert ways[10:] == [{"took": 0, "buffered": 0, "dropped": 1}] * 2
    reader.catch_up()
    assert [json.loads(event)["n"] for event in reader.data if '"n"' in event] == [*range(10)]


async def test_what_is_published_passes_through_unchanged(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    exact = b'{ "user_id":"ann" ,"big":123456789012345678901234567890,"s":"\\u00e9\xc3\xa9","created_at":0}'
    for body in (exact, b"  [" + exact + b" , " + exact + b"]\n"):
        assert (await post(client, body))[0] == 200
    assert reader.data[1:] == [exact.decode()] * 3


async def test_a_repeated_request_does_nothing_and_says_so(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    for repeated in (False, True, True):
        status, told, _ = await post(client, message(), idempotency_key="order-17")
        assert (status, told["repeated"]) == (200, repeated)
        assert (told["messages"][0]["connections"] is None) is repeated
    status, problem, _ = await post(client, message(2), idempotency_key="order-17")
    assert status == 422
    assert "Idempotency-Key" in problem["detail"]
    assert numbers(reader) == [1]


@pytest.mark.parametrize("key", ["", " ", "x" * (MAX_KEY + 1), "schlüssel", "a\tb"])
async def test_a_key_that_is_none_is_refused(client: QuartClient, service: Service, key: str) -> None:
    reader = Client(opened(service, "ann"))
    status, problem, _ = await post(client, message(), idempotency_key=key)
    if key == " ":
        assert status in (200, 400)
    else:
        assert status == 400
        assert "Idempotency-Key" in problem["detail"]
        assert numbers(reader) == []


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer three",
        "Bearer on",
        "Bearer onee",
        "Bearer ONE",
        "Basic one",
        "one",
        "Bearer one, two",
        "Bearer one,two",
        "Bearer ,",
        "Bearer \xff",
    ],
)
async def test_without_a_right_token_nothing_is_read(
    client: QuartClient, service: Service, authorization: str | None
) -> None:
    reader = Client(opened(service, "ann"))
    headers = {} if authorization is None else {"authorization": authorization}
    response = await client.post("/publish", data=json.dumps(message()), headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="trio_sse publish"'
    assert response.content_type == "application/problem+json"
    assert numbers(reader) == []


@pytest.mark.parametrize("authorization", ["Bearer one", "bearer two", "BEARER   one "])
async def test_each_of_the_tokens_will_do(client: QuartClient, authorization: str) -> None:
    response = await client.post(
        "/publish", data=json.dumps(message()), headers={"authorization": authorization}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("tokens", [None, "", " , "])
async def test_without_tokens_there_is_no_such_route(tokens: str | None) -> None:
    client = client_of(new_service(publish_tokens=tokens))
    response = await client.post("/publish", data=json.dumps(message()), headers=ONE)
    assert response.status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_publishes(method: str) -> None:
    response = await client_of(new_service()).open("/publish", method=method, headers=ONE)
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]


async def test_a_page_of_another_origin_may_ask_and_read(client: QuartClient) -> None:
    preflight = await client.options("/publish", headers={"origin": "https://a.example"})
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for name in ("Authorization", "Content-Type", "Idempotency-Key"):
        assert name in preflight.headers["access-control-allow-headers"]
    _, _, headers = await post(client, message(), origin="https://a.example")
    assert headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b"x", "not JSON"),
        (b"5", "object"),
        (b"{}", "user_id"),
        (b"\xff", "not UTF-8"),
        (b'{"user_id":1}{"user_id":1}', "not JSON"),
        (b'{"user_id":[]}', "empty list"),
        (b'{"user_id":1,"event":"gap"}', "own"),
        (b'{"user_id":1,"m":"' + b"x" * 70_000 + b'"}', "SSE_MAX_MESSAGE_BYTES"),
        (b'{"user_id":1,"m":' + b"[" * 20_000, "nested too deeply"),
        (b'[{"user_id":1},' + b"[" * 600, "message 1 is nested too deeply"),
        (b"[]", "0 messages"),
        (b"[", "not JSON"),
        (b"[{]", "not JSON"),
        (b"[}]", "not JSON"),
        (b"[{}}]", "not JSON"),
        (b'[{"user_id":1} {"user_id":1}]', "not JSON"),
        (b"[,]", "not JSON"),
        (b'["]', "not JSON"),
        (b"[1,1,1]", "object"),
        (b"[" + b"1," * 5_000, "more than 1000 messages"),
        (b"[" + b" " * 200_000 + b'{"user_id":1,"m":"' + b"x" * 70_000 + b'"}]', "SSE_MAX_MESSAGE_BYTES"),
        (b'[{"user_id":1,"m":"' + b"x" * 200_000, "message 0 is not JSON, or over SSE_MAX_MESSAGE_BYTES"),
        (b'\xef\xbb\xbf[{"user_id":1}]', "byte order mark"),
        ('[{"user_id":1}]'.encode("utf-16"), "UTF-16"),
        ('[{"user_id":1}]'.encode("utf-16-le"), "UTF-16"),
        (b'[{"user_id":1},]', "not JSON"),
        (b'[{"user_id":1}] x', "not JSON"),
        (b'[{"user_id":1}', "not JSON"),
        (b'["\xff"]', ""),
        (b"[" + b",".join([b'{"user_id":1}'] * (MAX_MESSAGES + 1)) + b"]", "more than 1000 messages"),
    ],
)
async def test_what_cannot_be_delivered_is_refused_with_the_reason(
    service: Service, client: QuartClient, body: bytes, detail: str
) -> None:
    reader = Client(opened(service, "1"))
    status, problem, headers = await post(client, body)
    assert status == 422
    assert headers["content-type"] == "application/problem+json"
    assert problem["detail"] == "nothing was published"
    assert detail in problem["errors"][0]["detail"]
    assert numbers(reader) == []


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"[" + b'{"a":' * 100_000, b'[{"user_id":1,"m":' + b"[" * 5_000 + b"]" * 5_000 + b"}]"],
    ids=["a list", "a list of objects", "a list that ends"],
)
async def test_a_deep_list_is_refused(body: bytes) -> None:
    _, mistakes, _ = await _read(body, 1 << 24, anything)
    assert mistakes


async def test_one_mistake_in_a_list_publishes_nothing_and_is_told_by_its_place(
    service: Service, client: QuartClient
) -> None:
    reader = Client(opened(service, "ann"))
    mixed = [message(0), {"n": 1}, message(2), {"user_id": []}, 5]
    status, problem, _ = await post(client, mixed)
    assert status == 422
    assert [error["index"] for error in problem["errors"]] == [1, 3, 4]
    assert all(error["detail"] for error in problem["errors"])
    await post(client, message(9))
    assert numbers(reader) == [9]


async def test_as_many_as_may_be_are_published(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    status, told, _ = await post(client, [message(number) for number in range(MAX_MESSAGES)])
    assert (status, len(told["messages"])) == (200, MAX_MESSAGES)
    assert numbers(reader) == [*range(MAX_MESSAGES)]


@given(st.binary() | st.binary().map(lambda junk: b"[" + junk + b"]"))
async def test_no_bytes_make_reading_them_raise(body: bytes) -> None:
    payloads, mistakes, _ = await _read(body, 65536, anything)
    assert bool(mistakes) or all(b"user_id" in payload for payload in payloads)


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_while_redis_is_away_it_says_when_to_try_again(key: str | None) -> None:
    service = new_service()
    async with App(service).test_app():
        headers = {} if key is None else {"idempotency_key": key}
        status, problem, answered = await post(client_of(service), message(), **headers)
    assert status == 503
    assert int(answered["retry-after"]) >= 1
    assert "REDIS_PORT" in problem["detail"]
    assert ("Idempotency-Key" in problem["detail"]) is (key is None)


@pytest.mark.parametrize("unsure", [True, False])
async def test_where_redis_may_have_it_that_is_said(monkeypatch: pytest.MonkeyPatch, unsure: bool) -> None:
    service = new_service()

    async def unavailable(*_: Any) -> None:
        raise UnavailableError("why", unsure=unsure)

    monkeypatch.setattr(service.publisher, "publish", unavailable)
    _, problem, _ = await post(client_of(service), message())
    assert ("may have the messages" in problem["detail"]) is unsure


BOUND: dict[str, Any] = {"publish_tokens": "one=orders/**,one=news,two"}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reaches the publisher. Topics are read here by the test itself."""
    taken: list[bytes] = []

    def decode(payload: bytes, max_bytes: int) -> Any:
        if "user_id" not in (said := json.loads(payload)) and "topic" not in said:
            raise messages.MessageError("neither user_id nor topic")
        user, topic = said.get("user_id", []), said.get("topic", [])
        users = None if user == "*" else tuple([user] if isinstance(user, str) else user)
        return SimpleNamespace(users=users, topics=tuple([topic] if isinstance(topic, str) else topic))

    async def publish(self: object, payloads: list[bytes], *_: object) -> Any:
        taken.extend(payloads)
        return [], False

    monkeypatch.setattr("trio_sse.web.publish.messages.decode", decode)
    monkeypatch.setattr(Publisher, "publish", publish)
    return taken


TO_TOPICS = {"topic": ["orders/17", "news"]}


@pytest.mark.parametrize(
    ("body", "forbidden"),
    [
        (TO_TOPICS, []),
        ([TO_TOPICS, {"topic": "orders/1/2"}], []),
        ({"topic": "orders"}, [0]),
        ({"user_id": "ann"}, [0]),
        ({"user_id": "*"}, [0]),
        ({"user_id": "*", "topic": "news"}, [0]),
        ([TO_TOPICS, {"topic": ["news", "chat"]}, TO_TOPICS, {"user_id": "ann", "topic": "news"}], [1, 3]),
        ([{"n": 1}, {"user_id": "ann"}], [1]),
    ],
)
async def test_a_bound_token_publishes_to_its_topics_and_nothing_of_a_list_with_anything_else(
    published: list[bytes], body: Any, forbidden: list[int]
) -> None:
    client = client_of(new_service(**BOUND))
    status, told, headers = await post(client, body)
    count = len(body) if isinstance(body, list) else 1
    if not forbidden:
        assert (status, len(published)) == (200, count)
        return
    assert (status, published) == (403, [])
    assert headers["content-type"] == "application/problem+json"
    assert [error["index"] for error in told["errors"]] == forbidden
    assert all(error["detail"].startswith("this token is ") for error in told["errors"])
    if not (isinstance(body, list) and {"n": 1} in body):
        assert (await post(client, body, authorization="Bearer two"))[0] == 200


async def test_what_cannot_be_read_is_told_to_a_bound_token_too(published: list[bytes]) -> None:
    status, told, _ = await post(client_of(new_service(**BOUND)), [TO_TOPICS, {"n": 1}])
    assert (status, [error["index"] for error in told["errors"]], published) == (422, [1], [])


async def test_a_bound_token_may_not_publish_to_a_user() -> None:
    bound = client_of(new_service(**BOUND))
    status, told, _ = await post(bound, [message(1), message(2, user_id="*")])
    assert (status, [error["index"] for error in told["errors"]]) == (403, [0, 1])


MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("max_message_bytes", "accepted"),
    [(64, 1000 * 65 + 65536), (65536, 16 * MEBIBYTE), (16 * MEBIBYTE, 32 * MEBIBYTE)],
)
async def test_a_body_without_end_is_not_read_to_the_end(max_message_bytes: int, accepted: int) -> None:
    service = new_service(max_message_bytes=max_message_bytes)
    assert App(service).config["BODY_TIMEOUT"] == 10
    for size, status in ((accepted, 422), (accepted + 1, 413)):
        for length in ({}, {"content-length": str(size)}):
            response = await client_of(service).post("/publish", data=b"x" * size, headers={**ONE, **length})
            assert response.status_code == status
            assert response.content_type == "application/problem+json"
    assert "SSE_MAX_MESSAGE_BYTES" in (await response.get_json(force=True))["detail"]


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "identity, gzip", "deflate,identity", "x"])
async def test_a_body_that_is_encoded_is_refused_and_says_what_is_not(
    client: QuartClient, coding: str
) -> None:
    status, _, headers = await post(
        client, gzip.compress(json.dumps(message()).encode()), content_encoding=coding
    )
    assert (status, headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_encoding": "identity"},
        {"content_encoding": ""},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": "application/json; charset=utf-16"},
        {"content_type": "nonsense"},
    ],
)
async def test_what_the_body_is_counts_and_not_what_it_is_called(
    client: QuartClient, headers: dict[str, str]
) -> None:
    assert (await post(client, message(), **headers))[0] == 200


async def test_a_list_is_passed_on_as_it_is_written(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    exact = [
        rb'{"user_id":"ann","created_at":0,"x":"\ud83d","y":["]",{"}":"\\"}]}',
        rb'{ "user_id" : "ann" , "created_at":0, "z":"\"},{" }',
        b'{"user_id":"ann","created_at":0,"n":1e999}',
    ]
    body = b" [ " + b" ,\t".join(exact) + b"   " * 1000 + b"] "
    assert (await post(client, body))[0] == 200
    assert reader.data[1:] == [one.decode() for one in exact]


VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{},"\\ \ud83da'), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{},"\\a', max_size=3), inner),
    max_leaves=10,
)


@given(
    st.lists(VALUES, min_size=1, max_size=5), st.sampled_from([None, 1]), st.sampled_from(["", " ", "\n\t"])
)
async def test_a_list_is_taken_apart_as_a_parser_would(
    values: list[Any], indent: int | None, space: str
) -> None:
    text = space + json.dumps(values, indent=indent) + space
    payloads, _, _ = await _read(text.encode(), 1 << 20, anything)
    assert [json.loads(payload) for payload in payloads] == values
    if indent is None:
        assert [payload.decode() for payload in payloads] == [json.dumps(value) for value in values]


@given(st.binary() | st.text('[]{},"\\ 1').map(str.encode), st.integers(0, 3))
async def test_a_list_that_is_no_json_is_not_taken(junk: bytes, at: int) -> None:
    good = b'{"user_id":1}'
    body = b"[" + b",".join([*[good] * at, junk, good]) + b"]"
    payloads, mistakes, _ = await _read(body, 1 << 20, anything)
    try:
        whole = json.loads(body.decode(), parse_constant=int)
    except (ValueError, RecursionError):
        assert mistakes
    else:
        assert mistakes or len(payloads) == len(whole)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * 8_000_000 + b"1]",
        b"[" * 16_000_000,
        b"[" + b"{}," * 5_000_000,
        b'["' + b"\\n" * 8_000_000,
    ],
    ids=["numbers", "brackets", "objects", "a text"],
)
async def test_a_body_of_no_use_is_not_read_far(body: bytes) -> None:
    """What is made of it is a small part of it."""
    tracemalloc.start()
    try:
        _, mistakes, _ = await _read(body, 65536, anything)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(mistakes) == 1
    assert most < MEBIBYTE


async def test_others_have_their_turn_while_a_long_list_is_read() -> None:
    brackets = b"[" + b",".join([b'{"user_id":1,"m":[%b]}' % b",".join([b"[]"] * 15_000)] * 20) + b"]"
    halves = b"[" + b",".join([b'{"user_id":1,"m":"%b"}' % (b"\\ud83d" * 10_000)] * 20) + b"]"
    blanks = b"[" + b",".join([b'{"user_id":1}'] * 20) + b" " * 4 * MEBIBYTE + b"]"
    for body in (brackets, halves, blanks, b" " * 4 * MEBIBYTE + brackets):
        async with turns_of_others() as turns:
            payloads, mistakes, _ = await _read(body, 65536, anything)
        assert (len(payloads), mistakes) == (20, [])
        assert turns.count > 10


async def test_readyz_says_whether_there_is_such_a_route() -> None:
    for tokens, there in (("one", True), (None, False)):
        response = await client_of(new_service(publish_tokens=tokens)).get("/readyz")
        assert (await response.get_json(force=True))["publish"] is there


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ({"traceparent": traceparent(), "tracestate": "a=b"}, (traceparent(), "a=b")),
        ({"traceparent": traceparent(), "tracestate": "x" * 513}, (traceparent(), None)),
        ({"traceparent": traceparent(), "tracestate": "\xe4"}, (traceparent(), None)),
        ({"traceparent": traceparent(sampled=False)}, (None, None)),
        ({"traceparent": "nonsense", "tracestate": "a=b"}, (None, None)),
        ({}, (None, None)),
    ],
)
async def test_the_trace_of_a_request_goes_on_in_its_messages(
    valkey: int, sent: dict[str, str], found: tuple[str | None, str | None]
) -> None:
    service = new_service(valkey, traces_per_second=10)
    async with App(service).test_app():
        reader = Client(opened(service, "ann"))
        own = traceparent(trace="1" * 32)
        status, _, _ = await post(client_of(service), [message(1), message(2, traceparent=own)], **sent)
    assert status == 200
    first, second = map(json.loads, reader.data[1:])
    assert (first.get("traceparent"), first.get("tracestate")) == found
    assert (second["traceparent"], second.get("tracestate")) == (own, None)


async def test_without_traces_messages_stay_as_they_are(service: Service, client: QuartClient) -> None:
    reader = Client(opened(service, "ann"))
    await post(client, message(1), traceparent=traceparent())
    assert "traceparent" not in reader.data[1]
