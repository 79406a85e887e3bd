"""What is remembered of a request that got no stream."""

from __future__ import annotations

import time

import pytest

from tests.support.inside import settings
from tests.support.tokens import SECRET, token
from trio_sse.access.admission import Accepted, overloaded_words
from trio_sse.access.limits import overloaded_by
from trio_sse.access.problem import refused
from trio_sse.access.refusals import refusal_of
from trio_sse.access.request import read_request
from trio_sse.delivery.recorder import Refusal
from trio_sse.delivery.resume import Start
from trio_sse.settings import Settings

NO = refused(401, "the token has expired", ())
JWT = settings(auth="jwt", jwt_secret=SECRET, jwt_cookie="tok", jwt_query=True, admin_token="x" * 16)


def told(
    query: bytes = b"", *headers: tuple[bytes, bytes], given: Settings = JWT, peer: str = "192.0.2.1"
) -> Refusal:
    return refusal_of(NO, read_request(query, headers, given), query, headers, peer, given)


def test_it_says_whom_the_request_named_from_where_and_why() -> None:
    before = time.time()
    refusal = told(b"user_id=ann")
    assert refusal[1:7] == ("ann", False, 401, "the token has expired", "192.0.2.1", None)
    assert before <= refusal.at <= time.time()


def test_without_tokens_a_request_that_names_nobody_is_one_of_the_default_user() -> None:
    assert told(given=settings()).user == "1"
    assert told(b"topic=news", given=settings()).user is None


@pytest.mark.parametrize("place", ["header", "cookie", "query"])
def test_a_token_that_proves_nothing_still_says_whose_it_would_be(place: str) -> None:
    forged = token(sub="eve", jti="t-9") + "x"
    headers = {
        "header": [(b"Authorization", b"Bearer " + forged.encode())],
        "cookie": [(b"cookie", b"a=1; tok=" + forged.encode() + b"; b=2")],
    }.get(place, [])
    query = b"access_token=" + forged.encode() if place == "query" else b""
    refusal = told(query, *headers)
    assert (refusal.user, refusal.claimed, refusal.jti) == ("eve", True, "t-9")


def test_it_is_the_token_that_was_looked_at_not_one_of_a_cookie_with_a_longer_name() -> None:
    ann, eve = token(sub="ann").encode(), token(sub="eve").encode()
    assert told(b"", (b"cookie", b"xtok=" + eve + b"; tok=" + ann)).user == "ann"


def test_a_cookie_that_its_page_may_not_use_says_whose_it_is_too() -> None:
    elsewhere = (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://b.example")
    assert told(b"", *elsewhere, (b"cookie", b"tok=" + token(sub="ann").encode())).user == "ann"


@pytest.mark.parametrize(
    "made_up",
    ["", "x", "..", "a.b.c", "a.W10.c", "a.eyJzdWIiOltdfQ.c", f"a.{'A' * 20_000}.c", "\xff.\xff.\xff"],
)
def test_what_is_no_token_says_nothing_and_harms_nobody(made_up: str) -> None:
    refusal = told(b"", (b"authorization", b"Bearer " + made_up.encode("latin-1")))
    assert (refusal.user, refusal.jti) == (None, None)


def test_a_user_that_a_token_makes_up_is_one_that_there_could_be() -> None:
    assert told(b"", (b"authorization", b"Bearer " + token(sub="a\nb").encode())).user is None
    assert told(b"", (b"authorization", b"Bearer " + token(sub=7).encode())).user == "7"


def test_it_is_remembered_for_whom_the_token_names_too() -> None:
    refusal = told(b"user_id=bob", (b"authorization", b"Bearer " + token(sub="eve").encode()))
    assert (refusal.user, refusal.claimed, refusal.holder) == ("bob", False, "eve")
    assert told(b"user_id=eve", (b"authorization", b"Bearer " + token(sub="eve").encode())).holder is None


@pytest.mark.parametrize(
    ("query", "header"),
    [
        (b"user_id=ann&topic=a*", ()),
        (b"user_id=ann&userid=eve", ()),
        (b"topic=" + b"&topic=".join(b"t%d" % n for n in range(200)), ("eve",)),
        (b"user_id=ann&user_id=bob", ()),
        (b"since=never&access_token=", ("eve",)),
    ],
)
def test_whom_a_malformed_request_meant_is_known(query: bytes, header: tuple[str, ...]) -> None:
    headers = [(b"authorization", b"Bearer " + token(sub=sub).encode()) for sub in header]
    assert told(query, *headers).user == (header[0] if header else "ann")


def test_a_request_by_a_wrong_name_is_one_of_its_user() -> None:
    given = settings(allowed_hosts=("sse.example",))
    assert told(b"user_id=ann&topic=news", (b"host", b"evil.example"), given=given).user == "ann"


def test_a_query_of_more_than_is_looked_at_names_nobody_and_harms_nobody() -> None:
    assert told(b"a=1&" * 5000 + b"user_id=ann").user is None
    assert told(b"\xff\xfe%ff&user_id=%ff").user is None


def test_a_malformed_request_is_remembered_too() -> None:
    refusal = told(b"user_id=a%00b")
    assert (refusal.user, refusal.address) == (None, "192.0.2.1")


def test_one_that_is_told_to_come_back_later_is_remembered_with_the_reason() -> None:
    later = Accepted("ann", Start(), (), last_words=overloaded_words(overloaded_by("total")))
    refusal = refusal_of(later, read_request(b"user_id=ann", (), JWT), b"user_id=ann", (), "192.0.2.1", JWT)
    assert (refusal.status, refusal.detail) == (200, "too many streams (SSE_MAX_CONNECTIONS)")


def test_behind_a_proxy_it_is_the_client_s_address() -> None:
    given = settings(trusted_proxies="10.0.0.0/8")
    assert (
        told(b"", (b"X-Forwarded-For", b"203.0.113.7"), given=given, peer="10.0.0.1").address == "203.0.113.7"
    )
