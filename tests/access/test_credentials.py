"""Which tokens a request brings, and in which order they count."""

from __future__ import annotations

from tests.support.inside import settings
from tests.support.tokens import SECRET
from trio_sse.access.credentials import MAX_TOKENS, cookies, tokens
from trio_sse.access.request import Fields, StreamRequest, read_request

JWT = settings(auth="jwt", jwt_secret=SECRET, jwt_cookie="tok", jwt_query=True)
HERE = (b"host", b"a.example")
ELSEWHERE = (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://b.example")


def request(query: bytes, headers: Fields) -> StreamRequest:
    made = read_request(query, headers, JWT)
    assert isinstance(made, StreamRequest)
    return made


def test_the_header_comes_first_then_cookies_then_the_query_and_each_once() -> None:
    headers = [HERE, (b"authorization", b"Bearer h"), (b"cookie", b"xtok=x; tok=c; tok=h; tok=d")]
    assert tokens(request(b"access_token=q", headers), JWT) == ["h", "c", "d", "q"]


def test_a_cookie_is_read_but_not_taken_from_a_page_of_another_origin() -> None:
    asked = request(b"", [HERE, *ELSEWHERE, (b"cookie", b"tok=c")])
    assert tokens(asked, JWT) == []
    assert cookies(asked, JWT) == ["c"]


def test_they_are_a_few_at_most() -> None:
    many = "; ".join(f"tok={number}" for number in range(2 * MAX_TOKENS))
    assert len(tokens(request(b"", [HERE, (b"cookie", many.encode())]), JWT)) == MAX_TOKENS
