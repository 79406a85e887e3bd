"""Who is let in, and what everybody else is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock, assert_no_checkpoints

from tests.support.inside import events, settings
from tests.support.tokens import SECRET, ec_key, key_server, token
from trio_sse.access.admission import Accepted, Admission
from trio_sse.access.problem import Refused
from trio_sse.delivery.recorder import Refusal
from trio_sse.settings import SettingsError

ACCEPT = (b"accept", b"text/event-stream")
JWT = {"auth": "jwt", "jwt_secret": SECRET}


async def ask(
    query: bytes = b"", *headers: tuple[bytes, bytes], peer: str = "192.0.2.1", **values: Any
) -> Accepted | Refused:
    return await Admission(settings(**values)).admit(query, headers, lambda: peer)


def bearer(made: str) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + made.encode())


async def accepted(query: bytes = b"", *headers: tuple[bytes, bytes], **values: Any) -> Accepted:
    answer = await ask(query, *headers, **values)
    assert isinstance(answer, Accepted)
    return answer


async def refused(query: bytes = b"", *headers: tuple[bytes, bytes], **values: Any) -> Refused:
    answer = await ask(query, *headers, **values)
    assert isinstance(answer, Refused)
    document = json.loads(answer.body)
    assert (document["status"], document["detail"]) == (answer.status, answer.detail)
    return answer


async def test_with_nothing_configured_everybody_is_let_in() -> None:
    assert (await accepted()).user_id == "1"
    answer = await accepted(b"user_id=ann&access_token=x", (b"last-event-id", b"7-1"), bearer("x"))
    assert (answer.user_id, answer.start.last_event_id) == ("ann", "7-1")
    assert (answer.seconds, answer.last_words, answer.address) == (None, b"", "")


def test_that_everybody_is_let_in_is_said_once_at_the_start() -> None:
    with capture_logs() as lines:
        Admission(settings()).warn_if_open()
        Admission(settings(**JWT)).warn_if_open()
    (line,) = lines
    assert line["log_level"] == "warning"
    for part in ("SSE_AUTH", "any user_id", "any topic"):
        assert part in line["event"]


async def test_a_user_that_was_not_filled_in_is_said_in_the_log_once_a_minute(
    autojump_clock: MockClock,
) -> None:
    admission = Admission(settings())
    queries = [b"user_id=", b"user_id=", b"", b"user_id=7", b"user_id=undefined", b"user_id=%1B", b"user_id"]

    async def come() -> list[Any]:
        with capture_logs() as lines:
            for query in queries:
                await admission.admit(query, (), str)
        return lines

    (line,) = await come()
    assert (line["found"], line["stream_of"], line["unlogged"]) == ("empty", "user 1, the default", 0)
    await trio.sleep(59)
    assert await come() == []
    await trio.sleep(2)
    (line,) = await come()
    assert line["unlogged"] == 3 + 4
    queries[:] = [b"user_id=%7B%E2%80%AE%7D"]
    await trio.sleep(61)
    (line,) = await come()
    assert (line["found"], line["stream_of"]) == ("a template", "the user of that name")
    queries[:] = [b"user_id=&topic=news"]
    await trio.sleep(61)
    (line,) = await come()
    assert (line["found"], line["stream_of"]) == ("empty", "nobody, of topics alone")


async def test_whose_user_a_token_names_need_not_fill_it_in() -> None:
    with capture_logs() as lines:
        answer = await accepted(b"user_id=", bearer(token()), **JWT)
    assert answer.user_id == "ann"
    assert lines == []


async def test_nobody_waits_but_for_keys() -> None:
    with assert_no_checkpoints():
        await accepted(b"user_id=ann")
        await accepted(b"", bearer(token()), **JWT, max_connections=5)


@pytest.mark.parametrize(
    ("query", "header", "values"),
    [
        (b"user_id=ann", [], {}),
        (b"user_id=*", [], {}),
        (b"user_id=ann", [bearer(token())], JWT),
        (b"user_id=bob", [bearer(token())], JWT),
        (b"user_id=ann", [bearer("x.y.z")], JWT),
        (b"user_id=ann", [], JWT),
        (b"topic=news", [], {}),
        (b"topic=news", [], {**JWT, "public_topics": "news"}),
        (b"topic=news", [bearer(token(topics="news"))], JWT),
        (b"topic=news", [bearer(token())], JWT),
        (b"topic=news", [], JWT),
    ],
)
async def test_who_need_not_wait_is_answered_at_once_in_the_same_way(
    query: bytes, header: list[tuple[bytes, bytes]], values: dict[str, Any]
) -> None:
    admission = Admission(settings(**values))
    at_once = admission.admit_now(query, header, str)
    waiting = await admission.admit(query, header, str)
    assert at_once is not None
    if isinstance(at_once, Accepted):
        assert isinstance(waiting, Accepted)
        assert at_once._replace(seconds=None) == waiting._replace(seconds=None)
        assert (at_once.seconds is None) is (waiting.seconds is None)
    else:
        assert at_once == waiting


async def test_at_once_there_is_no_answer_while_the_keys_are_not_there(nursery: trio.Nursery) -> None:
    with key_server() as server:
        server.offer(one=ec_key())
        admission = Admission(settings(auth="jwt", jwt_jwks_url=server.url))
        nursery.start_soon(admission.run)
        signed = [bearer(token(ec_key(), {"kid": "one"}))]
        assert admission.admit_now(b"", signed, str) is None
        assert isinstance(await admission.admit(b"", signed, str), Accepted)
        answer = admission.admit_now(b"", signed, str)
        assert isinstance(answer, Accepted)
        assert answer.user_id == "ann"


async def test_the_user_is_the_token_s() -> None:
    assert (await accepted(b"", bearer(token(sub="ann")), **JWT)).user_id == "ann"
    answer = await accepted(b"user_id=ann", bearer(token(sub="ann")), **JWT)
    assert answer.user_id == "ann"
    assert answer.seconds is not None
    assert 1800 < answer.seconds <= 3630, "it was made when the tests were collected"


@pytest.mark.parametrize("query", [b"user_id=bob", b"user_id=1", b"user_id=ANN", b"user_id=ann%20"])
async def test_another_user_s_stream_is_forbidden(query: bytes) -> None:
    answer = await refused(query, bearer(token(sub="ann")), **JWT)
    assert answer.status == 403
    assert 'error="insufficient_scope"' in dict(answer.headers)["www-authenticate"]


async def test_without_a_token_the_answer_says_that_one_is_needed() -> None:
    answer = await refused(b"user_id=ann", ACCEPT, **JWT)
    assert answer.status == 401
    assert dict(answer.headers)["www-authenticate"] == 'Bearer realm="trio_sse"'


async def test_a_wrong_token_is_told_what_is_wrong_with_it() -> None:
    answer = await refused(b"", ACCEPT, bearer(token(ec_key())), **JWT)
    assert answer.status == 401
    challenge = dict(answer.headers)["www-authenticate"]
    assert challenge.startswith(
        'Bearer realm="trio_sse", error="invalid_token", error_description="the token'
    )


@pytest.mark.parametrize("made", ["", token(sub="bob"), "x.y.z"])
async def test_a_page_of_a_listed_origin_may_read_every_refusal(made: str) -> None:
    origin = (b"origin", b"https://a.example")
    answer = await refused(b"user_id=ann", origin, bearer(made), cors_origins=("https://a.example",), **JWT)
    headers = dict(answer.headers)
    assert headers["access-control-allow-origin"] == "https://a.example"
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-expose-headers"] == "www-authenticate"
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "user_id", "topics"),
    [
        (b"", "1", ()),
        (b"user_id=ann", "ann", ()),
        (b"topic=news", None, ("news",)),
        (b"user_id=&topic=news", None, ("news",)),
        (b"user_id=ann&topic=b&topic=a&topic=b", "ann", ("b", "a")),
    ],
)
async def test_without_auth_any_topic_is_open(
    query: bytes, user_id: str | None, topics: tuple[str, ...]
) -> None:
    answer = await accepted(query, bearer("x"))
    assert (answer.user_id, answer.topics, answer.seconds) == (user_id, topics, None)


def granting(*topics: str, sub: str | None = "ann") -> tuple[bytes, bytes]:
    return bearer(token(sub=sub, topics=list(topics)))


PUBLIC = {**JWT, "public_topics": "news, open/*"}


@pytest.mark.parametrize(
    ("query", "token_", "user_id", "topics"),
    [
        (b"", granting("b", "orders/*", "a"), "ann", ("b", "a")),
        (b"user_id=ann", granting("b", "orders/*", "a"), "ann", ("b", "a")),
        (b"", granting("b", sub=None), None, ("b",)),
        (b"", granting("orders/*"), "ann", ()),
        (b"topic=orders/17", granting("b", "orders/*"), "ann", ("orders/17",)),
        (b"topic=orders/17&topic=b", granting("b", "orders/*"), "ann", ("orders/17", "b")),
        (b"user_id=ann&topic=b", granting("b"), "ann", ("b",)),
        (b"topic=b", granting("b", sub=None), None, ("b",)),
        (b"topic=b", granting("**", sub=None), None, ("b",)),
        (b"topic=b&topic=news&topic=open/x", granting("b"), "ann", ("b", "news", "open/x")),
        (b"user_id=ann&topic=news", granting(), "ann", ("news",)),
    ],
)
async def test_a_stream_follows_what_its_token_grants(
    query: bytes, token_: tuple[bytes, bytes], user_id: str | None, topics: tuple[str, ...]
) -> None:
    answer = await accepted(query, token_, **PUBLIC)
    assert (answer.user_id, answer.topics) == (user_id, topics)
    assert answer.seconds is not None
    assert 1800 < answer.seconds <= 3630, "it was made when the tests were collected"


@pytest.mark.parametrize(
    ("query", "token_", "named"),
    [
        (b"topic=orders/17", granting(), "'orders/17'"),
        (b"topic=orders", granting("orders/*", "orders/**"), "'orders'"),
        (b"topic=b&topic=c", granting("b"), "'c'"),
        (b"topic=news&topic=c", granting("b"), "'c'"),
        (b"topic=B", granting("b"), "'B'"),
        (b"topic=ann", granting(), "'ann'"),
        (b"topic=or", granting("or*", "*r", "**/or"), "'or'"),
        (b"user_id=ann&topic=c", granting("b"), "'c'"),
        (b"user_id=bob&topic=b", granting("b"), "user_id is not the user"),
        (b"user_id=bob", granting("b"), "user_id is not the user"),
        (b"user_id=bob&topic=b", granting("b", sub=None), "user_id is not the user"),
        (b"user_id=1", granting("b", sub=None), "user_id is not the user"),
        (b"topic=%E2%80%AE%22", granting("b"), r"""'\u202e"'"""),
        (b"topic=%E2%80%A8", granting("b"), r"'\u2028'"),
        (b"topic=x%22,error%3D%22invalid", granting("b"), 'x",error="invalid'),
    ],
)
async def test_what_a_token_does_not_grant_is_forbidden_and_named_in_the_body_alone(
    query: bytes, token_: tuple[bytes, bytes], named: str
) -> None:
    answer = await refused(query, ACCEPT, token_, **PUBLIC)
    assert answer.status == 403
    assert named in answer.detail
    challenge = dict(answer.headers)["www-authenticate"]
    texts = {"the token does not grant a topic", "user_id is not the user of the token"}
    prefix = 'Bearer realm="trio_sse", error="insufficient_scope", error_description="'
    assert challenge in {f'{prefix}{text}"' for text in texts}


@pytest.mark.parametrize("headers", [(), (bearer("x"),), (bearer(token(exp=5)),), (granting("b"),)])
@pytest.mark.parametrize("query", [b"topic=news", b"topic=open/1&topic=news", b"user_id=&topic=open/1"])
async def test_for_public_topics_alone_no_token_is_looked_at(
    query: bytes, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    answer = await accepted(query, *headers, **PUBLIC)
    assert (answer.user_id, answer.seconds) == (None, None)
    assert set(answer.topics) <= {"news", "open/1"}


@pytest.mark.parametrize(
    "query",
    [b"", b"user_id=ann", b"user_id=ann&topic=news", b"topic=news&topic=b", b"topic=open", b"topic=open/"],
)
async def test_for_anything_beside_public_topics_a_token_is_needed(query: bytes) -> None:
    answer = await refused(query, **PUBLIC)
    assert (answer.status, answer.detail) == (401, "a token is required")


async def test_for_public_topics_nobody_waits_for_keys() -> None:
    admission = Admission(settings(auth="jwt", jwt_jwks_url="http://127.0.0.1:1/keys", public_topics="news"))
    assert isinstance(admission.admit_now(b"topic=news", (), str), Accepted)
    with assert_no_checkpoints():
        assert isinstance(await admission.admit(b"topic=news", (), str), Accepted)


async def test_a_token_for_more_topics_than_a_stream_may_follow_has_to_be_told_which() -> None:
    many = granting(*(f"t{number}" for number in range(11)))
    answer = await refused(b"", many, **JWT, max_topics=10)
    assert (answer.status, "11 topics" in answer.detail, "SSE_MAX_TOPICS=10" in answer.detail) == (
        400,
        True,
        True,
    )
    assert (await accepted(b"topic=t10", many, **JWT, max_topics=10)).topics == ("t10",)
    assert len((await accepted(b"", many, **JWT, max_topics=11)).topics) == 11


async def test_a_token_for_patterns_alone_has_to_be_told_which_topics() -> None:
    answer = await refused(b"", granting("orders/*", sub=None), **JWT)
    assert (answer.status, "name a topic" in answer.detail) == (400, True)


async def test_of_two_tokens_that_counts_which_grants_what_is_asked_for() -> None:
    old, new = (token(topics=[topic]).encode() for topic in ("a", "b"))
    cookies = (b"cookie", b"tok=" + old + b"; tok=" + new)
    for query, topics in ((b"topic=b", ("b",)), (b"topic=a", ("a",)), (b"", ("a",))):
        assert (await accepted(query, cookies, **ANYWHERE)).topics == topics
    both = await refused(b"topic=a&topic=b", cookies, **ANYWHERE)
    assert (both.status, "'b'" in both.detail) == (403, True)


async def test_a_stream_without_a_user_counts_for_no_user() -> None:
    admission = Admission(settings(max_connections_per_user=1))
    for number in range(3):
        answer = await admission.admit(b"topic=news", (), str)
        assert isinstance(answer, Accepted)
        admission.limits.begin(number, answer.user_id, answer.address)
    assert isinstance(await admission.admit(b"", (), str), Accepted)


async def test_one_too_many_is_told_so_whatever_it_follows() -> None:
    admission = Admission(settings(max_connections=1))
    admission.limits.begin("a stream", None, "")
    answer = await admission.admit(b"topic=news", [ACCEPT], str)
    assert isinstance(answer, Accepted)
    assert (answer.user_id, answer.topics) == (None, ("news",))
    assert b"event: overloaded" in answer.last_words


def test_public_topics_that_are_none_end_the_start() -> None:
    for values in ({}, JWT):
        with pytest.raises(SettingsError, match=r"SSE_PUBLIC_TOPICS='or\*' is not accepted"):
            Admission(settings(public_topics="news,or*", **values))


GOOD = token(sub="good").encode()
BAD = token(sub="bad").encode()
OLD = token(sub="good", exp=5).encode()
ANYWHERE = {**JWT, "jwt_cookie": "tok", "jwt_query": True}
CONFIGURED = settings(**ANYWHERE)
ADMISSION = Admission(CONFIGURED)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (b"", [(b"authorization", b"Bearer " + GOOD)]),
        (b"", [(b"Authorization", b"bearer   " + GOOD + b" ")]),
        (b"", [(b"cookie", b"tok=" + GOOD)]),
        (b"", [(b"cookie", b"a=1; tok=" + GOOD + b"; b=2")]),
        (b"", [(b"cookie", b"a=1"), (b"cookie", b"tok=" + GOOD)]),
        (b"", [(b"cookie", b'x=\xff\xfe; ;=;broken; tok="' + GOOD + b'"')]),
        (b"", [(b"cookie", b"tok=" + GOOD + b"; tok=" + BAD)]),
        (b"access_token=" + GOOD, []),
        (b"access_token=" + GOOD, [(b"cookie", b"tok=; other=x")]),
        (b"access_token=" + GOOD, [(b"authorization", b"Basic Z29vZDp4")]),
        (b"access_token=" + BAD, [(b"cookie", b"tok=" + GOOD)]),
        (b"", [(b"cookie", b"tok=" + OLD + b"; tok=" + GOOD)]),
        (b"", [(b"cookie", b"tok=; tok=x; tok=" + GOOD)]),
        (b"", [(b"cookie", b"atok=x;tok = " + GOOD + b";tokb=y; a=tok")]),
        (b"", [(b"cookie", b'a="b; tok=' + BAD + b'; tok"; tok=' + GOOD)]),
        (b"", [(b"cookie", b"tok=" + GOOD), (b"authorization", b"Bearer")]),
        (b"", [(b"cookie", b"tok=" + GOOD), (b"authorization", b"Bearer ")]),
        (b"", [(b"cookie", b"tok=" + GOOD), (b"authorization", b"Bearer undefined")]),
        (b"", [(b"cookie", b"tok=" + GOOD), (b"authorization", b"Bearer " + OLD)]),
        (b"", [(b"cookie", b"tok=" + GOOD), (b"authorization", b"Basic Z29vZDp4")]),
        (b"access_token=" + GOOD, [(b"cookie", b"tok=" + OLD), (b"authorization", b"Bearer x")]),
        (b"user_id=good", [(b"cookie", b"tok=" + BAD + b"; tok=" + GOOD)]),
        (b"access_token=" + BAD, [(b"cookie", b"tok=" + BAD), (b"authorization", b"Bearer " + GOOD)]),
    ],
)
async def test_header_then_cookie_then_query(query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    assert (await accepted(query, *headers, **ANYWHERE)).user_id == "good"


@pytest.mark.parametrize(
    ("query", "headers", "values"),
    [
        (b"access_token=" + GOOD, [], {**JWT, "jwt_cookie": "tok"}),
        (b"", [(b"cookie", b"tok=" + GOOD)], {**JWT, "jwt_query": True}),
        (b"", [(b"cookie", b"TOK=" + GOOD)], ANYWHERE),
        (b"", [(b"authorization", GOOD)], ANYWHERE),
        (b"", [(b"authorization", b"Basic " + GOOD)], ANYWHERE),
        (b"", [(b"x-authorization", b"Bearer " + GOOD)], ANYWHERE),
        (b"token=" + GOOD, [], ANYWHERE),
    ],
)
async def test_a_token_counts_only_where_it_may_be(
    query: bytes, headers: list[tuple[bytes, bytes]], values: dict[str, Any]
) -> None:
    assert (await refused(query, *headers, **values)).detail == "a token is required"


FOREIGN = ((b"origin", b"https://evil.example"), (b"cookie", b"tok=" + GOOD))


async def test_a_foreign_page_may_not_use_the_cookie_but_a_token_of_its_own() -> None:
    answer = await refused(b"", *FOREIGN, **ANYWHERE)
    assert (answer.status, "SSE_CORS_ORIGINS" in answer.detail) == (403, True)
    assert (await accepted(b"access_token=" + BAD, *FOREIGN, **ANYWHERE)).user_id == "bad"
    assert (await accepted(b"", *FOREIGN, cors_origins="https://evil.example", **ANYWHERE)).user_id == "good"


async def test_two_tokens_in_two_header_lines_are_none() -> None:
    answer = await refused(b"", bearer(GOOD.decode()), bearer(BAD.decode()), **ANYWHERE)
    assert answer.status == 401


@given(st.binary(), st.binary(), st.binary())
async def test_no_bytes_make_it_raise_or_let_anybody_in(header: bytes, cookie: bytes, query: bytes) -> None:
    headers = [(b"authorization", b"Bearer " + header), (b"cookie", cookie), (b"cookie", b"tok=" + cookie)]
    for first in (0, 1, 3):  # all of them, the cookies, the query alone
        answer = await ADMISSION.admit(b"access_token=" + query, headers[first:], lambda: "")
        assert isinstance(answer, Refused)
        for name, value in answer.headers:
            assert not set(f"{name}{value}") & set("\r\n\0")
            value.encode("latin-1")


async def full(*headers: tuple[bytes, bytes], **values: Any) -> Accepted | Refused:
    admission = Admission(settings(**values))
    admission.limits.begin("a stream", "ann", "192.0.2.1")
    return await admission.admit(b"user_id=ann", headers, lambda: "192.0.2.1")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("max_connections", 503),
        ("max_connections_per_user", 429),
        ("max_connections_per_address", 429),
        ("connection_rate_per_address", 429),
    ],
)
async def test_who_asks_for_no_stream_is_told_to_try_later(name: str, status: int) -> None:
    answer = await full((b"accept", b"*/*"), **{name: 1})
    assert isinstance(answer, Refused)
    assert answer.status == status
    headers = dict(answer.headers)
    assert int(headers["retry-after"]) >= 1
    assert headers["access-control-expose-headers"] == "retry-after"
    assert f"SSE_{name.upper()}" in answer.detail


@pytest.mark.parametrize(
    "accept", [b"text/event-stream", b"Text/Event-Stream", b"*/*, text/event-stream;q=0.5"]
)
async def test_an_event_source_is_told_when_to_come_back_by_a_stream(accept: bytes) -> None:
    answers = [await full((b"accept", accept), max_connections=1) for _ in range(20)]
    retries = set()
    for answer in answers:
        assert isinstance(answer, Accepted)
        assert ("content-type", "text/event-stream") in answer.headers
        (said,) = events(answer.last_words)
        assert said.event == "overloaded"
        assert said.retry == said.json()["retry_milliseconds"]
        assert "SSE_MAX_CONNECTIONS" in said.json()["detail"]
        retries.add(said.retry)
    assert len(retries) > 3, "spread, so that a crowd does not return as one"


async def test_who_is_nobody_is_not_told_how_full_it_is() -> None:
    answer = await full(ACCEPT, max_connections=1, **JWT)
    assert isinstance(answer, Refused)
    assert answer.status == 401


@pytest.mark.parametrize("headers", [[ACCEPT], []])
async def test_while_keys_cannot_be_had_everybody_is_told_to_try_later(
    headers: list[tuple[bytes, bytes]], nursery: trio.Nursery
) -> None:
    values = {"auth": "jwt", "jwt_jwks_url": "http://127.0.0.1:1/keys"}
    admission = Admission(settings(**values))
    nursery.start_soon(admission.run)
    signed = bearer(token(ec_key(), {"kid": "one"}))
    answer = await admission.admit(b"", (*headers, signed), lambda: "192.0.2.1")
    if headers:
        assert isinstance(answer, Accepted)
        assert b"event: overloaded" in answer.last_words
    else:
        assert isinstance(answer, Refused)
        assert (answer.status, "retry-after" in dict(answer.headers)) == (503, True)


async def test_the_address_is_asked_for_only_where_it_counts() -> None:
    def peer() -> str:
        raise AssertionError

    await Admission(settings()).admit(b"", (), peer)


async def test_the_address_is_the_client_s_behind_a_trusted_proxy() -> None:
    values = {"max_connections_per_address": 5, "trusted_proxies": "10.0.0.0/8"}
    forwarded = (b"x-forwarded-for", b"192.0.2.66, 192.0.2.1")
    assert (await accepted(b"", forwarded, peer="10.0.0.1", **values)).address == "192.0.2.1"
    assert (await accepted(b"", forwarded, peer="192.0.2.7", **values)).address == "192.0.2.7"


@pytest.mark.parametrize(
    "claim",
    [
        "https://a.example/user",
        "用户",
        'a"b',
    ],
)
async def test_a_claim_of_any_name_makes_a_header_that_can_be_sent(claim: str) -> None:
    answer = await refused(b"", bearer(token()), jwt_user_claim=claim, **JWT)
    challenge = dict(answer.headers)["www-authenticate"]
    challenge.encode("latin-1")
    assert challenge.count('"') == 6


class AllProcesses:
    """What all processes together answer, one after the other."""

    def __init__(self, admission: Admission, *limits: str) -> None:
        self.limits = list(limits)
        self.asked: list[tuple[str | None, str]] = []
        self.place = object()
        admission.ask = self.ask

    async def ask(self, user_id: str | None, address: str) -> tuple[tuple[str, float], object | None]:
        self.asked.append((user_id, address))
        limit = self.limits.pop(0)
        return (limit, 0.0), None if limit else self.place


SHARED = {"limits_shared": True, "max_connections_per_user": 2}


async def test_where_limits_are_shared_all_processes_are_asked_and_nobody_is_let_in_at_once() -> None:
    admission = Admission(settings(**SHARED))
    others = AllProcesses(admission, "", "user")
    assert admission.admit_now(b"user_id=ann", (), lambda: "192.0.2.1") is None
    answer = await admission.admit(b"user_id=ann", [ACCEPT], lambda: "192.0.2.1")
    assert isinstance(answer, Accepted)
    assert (answer.reservation, answer.last_words) == (others.place, b"")
    answer = await admission.admit(b"user_id=ann", [ACCEPT], lambda: "192.0.2.1")
    assert isinstance(answer, Accepted)
    assert b"SSE_MAX_CONNECTIONS_PER_USER" in answer.last_words
    assert answer.reservation is None
    assert others.asked == [("ann", "192.0.2.1")] * 2


async def test_for_what_is_refused_in_any_case_nobody_is_asked() -> None:
    admission = Admission(settings(**SHARED))
    others = AllProcesses(admission)
    assert isinstance(admission.admit_now(b"user_id=ann&user_id=bob", (), str), Refused)
    assert isinstance(await admission.admit(b"user_id=ann&user_id=bob", (), str), Refused)
    for stream in "ab":
        admission.limits.begin(stream, "ann", "")
    answer = await admission.admit(b"user_id=ann", [ACCEPT], str)
    assert isinstance(answer, Accepted)
    assert b"SSE_MAX_CONNECTIONS_PER_USER" in answer.last_words
    assert others.asked == []


@pytest.mark.parametrize("without", ["open", "closed"])
async def test_while_they_cannot_be_asked_the_setting_decides(without: str) -> None:
    admission = Admission(settings(**SHARED, limits_without_redis=without))
    AllProcesses(admission, "away")
    answer = await admission.admit(b"user_id=ann", (), str)
    if without == "open":
        assert isinstance(answer, Accepted)
    else:
        assert isinstance(answer, Refused)
        assert answer.status == 503


async def test_who_gets_no_stream_is_told_to_whoever_listens() -> None:
    admission = Admission(settings(**JWT, max_connections=1, admin_token="x" * 16))
    told: list[Refusal] = []
    admission.refused = told.append
    for made in (admission.admit_now, admission.admit):
        answer = made(b"user_id=ann", (), lambda: "192.0.2.1")
        if not isinstance(answer, Accepted | Refused) and answer is not None:
            await answer
    assert [(one.user, one.status, one.detail, one.address) for one in told] == [
        ("ann", 401, "a token is required", "192.0.2.1")
    ] * 2
    admission.limits.begin(object(), "bob", "x")
    await admission.admit(b"", [bearer(token(sub="ann")), ACCEPT], lambda: "192.0.2.1")
    assert told[-1].detail == "too many streams (SSE_MAX_CONNECTIONS)"
    assert not told[-1].claimed or told[-1].user == "ann"


async def test_where_somebody_listens_the_address_of_a_stream_is_known_without_limits_too() -> None:
    admission = Admission(settings())
    admission.refused = lambda _: None
    answer = await admission.admit(b"user_id=ann", (), lambda: "192.0.2.1")
    assert isinstance(answer, Accepted)
    assert answer.address == "192.0.2.1"


async def test_what_a_token_is_called_goes_with_the_stream() -> None:
    answer = await accepted(b"", bearer(token(jti="t-1", iat=1000)), **JWT)
    assert (answer.jti, answer.issued_at) == ("t-1", 1000)
