"""Which pages may read an answer, and whose cookie counts."""

from __future__ import annotations

import pytest

from tests.support.inside import settings
from trio_sse.access.cors import cors_headers, is_foreign
from trio_sse.access.problem import Refused
from trio_sse.access.request import StreamRequest, read_request

ANY_ORIGIN = settings()


LISTED = settings(cors_origins=("https://a.example", "https://b.example"))


def test_any_origin_is_allowed_without_credentials() -> None:
    assert cors_headers("https://a.example", ANY_ORIGIN) == (("access-control-allow-origin", "*"),)


def test_a_listed_origin_is_allowed_with_credentials() -> None:
    assert cors_headers("https://b.example", LISTED) == (
        ("access-control-allow-origin", "https://b.example"),
        ("access-control-allow-credentials", "true"),
        ("vary", "Origin"),
    )


@pytest.mark.parametrize("origin", ["", "https://c.example", "https://a.example.evil", "null"])
def test_another_origin_is_not_allowed_and_caches_are_told(origin: str) -> None:
    assert cors_headers(origin, LISTED) == (("vary", "Origin"),)


def test_null_is_no_one_s_own_origin_and_gets_no_credentials() -> None:
    assert cors_headers("null", settings(cors_origins="https://a.example,null")) == (
        ("access-control-allow-origin", "null"),
        ("vary", "Origin"),
    )


@pytest.mark.parametrize(
    ("fields", "foreign"),
    [
        ({}, False),
        ({b"sec-fetch-site": b"cross-site"}, True),
        ({b"sec-fetch-site": b"same-site"}, False),
        ({b"sec-fetch-site": b"none"}, False),
        ({b"origin": b"https://evil.example"}, True),
        ({b"origin": b"https://evil.example", b"sec-fetch-site": b"same-site"}, True),
        ({b"origin": b"null", b"sec-fetch-site": b"cross-site"}, True),
        ({b"origin": b"https://a.example", b"sec-fetch-site": b"cross-site"}, False),
        ({b"origin": b"https://sse.example", b"host": b"sse.example"}, False),
        ({b"origin": b"https://sse.example", b"host": b"SSE.example:443"}, False),
        ({b"origin": b"http://sse.example:8085", b"host": b"sse.example:8085"}, False),
        ({b"origin": b"https://sse.example", b"host": b"sse.example:8085"}, True),
        ({b"origin": b"https://front.example", b"sec-fetch-site": b"same-origin"}, False),
    ],
)
@pytest.mark.parametrize("origins", ["https://a.example", "https://a.example,null"])
def test_a_request_of_a_page_that_is_not_listed_is_foreign(
    fields: dict[bytes, bytes], foreign: bool, origins: str
) -> None:
    assert is_foreign(fields, settings(cors_origins=origins)) is foreign


def test_with_any_origin_every_other_page_is_foreign() -> None:
    assert is_foreign({b"origin": b"https://a.example"}, ANY_ORIGIN)


@pytest.mark.parametrize("host", [b"evil.example", b"sse.example.evil", b"x"])
def test_a_name_that_is_not_the_service_s_is_misdirected(host: bytes) -> None:
    answer = read_request(b"", [(b"Host", host)], settings(allowed_hosts="sse.example"))
    assert isinstance(answer, Refused)
    assert (answer.status, "SSE_ALLOWED_HOSTS" in answer.detail) == (421, True)
    assert isinstance(
        read_request(b"", [(b"host", b"sse.example:85")], settings(allowed_hosts="sse.example")),
        StreamRequest,
    )
