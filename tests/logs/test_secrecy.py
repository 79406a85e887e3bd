"""What must not be read in a log is not there, in whatever place and spelling."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from tests.support.inside import settings
from trio_sse.logs.secrecy import hidden_in, hiding

SECRET = 'Geh3im/ü "n&1'
BY_SETTINGS: dict[str, Any] = {
    "auth": "jwt",
    "jwt_secret": "s" * 40,
    "jwt_secret_previous": "p" * 40,
    "publish_tokens": "token-of-sixteen-1, token-of-sixteen-2=orders/**",
    "redis_password": SECRET,
    "redis_sentinel_password": "of the sentinels",
}
hide = hiding(settings(**BY_SETTINGS))


@pytest.mark.parametrize(
    "secret", ["s" * 40, "p" * 40, "token-of-sixteen-1", "token-of-sixteen-2", SECRET, "of the sentinels"]
)
@pytest.mark.parametrize(
    "spelled",
    [str, repr, json.dumps, quote, quote_plus, lambda text: quote(text, safe=""), lambda text: f"a={text};"],
)
def test_secrets_of_the_settings(secret: str, spelled: Any) -> None:
    hidden = hide(f"before {spelled(secret)} after")
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "***" in hidden
    for part in (secret, spelled(secret), "token-of", "Geh3im", "sentinels"):
        assert part not in hidden


@pytest.mark.parametrize("spelled", [str, repr, json.dumps])
def test_a_secret_with_quotes_of_both_kinds(spelled: Any) -> None:
    secret = """It's "so" secret"""
    assert "secret" not in hiding(settings(redis_password=secret))(f"before {spelled(secret)} after")


def test_of_a_secret_of_several_lines_each_is_one() -> None:
    hide = hiding(settings(redis_password="the first\nanother"))
    assert hide("the first, and another") == "***, and ***"


def test_of_a_secret_that_begins_as_another_does_nothing_is_left() -> None:
    hide = hiding(settings(redis_password="hunter2", redis_sentinel_password="hunter2-and-more"))
    assert hide("hunter2-and-more hunter2") == "*** ***"


def test_the_password_in_the_address_of_redis() -> None:
    hide = hiding(settings(redis_url="rediss://ann:pass-w0rd@127.0.0.1:6380/1"))
    assert hide("cannot connect as ann with pass-w0rd") == "cannot connect as ann with ***"


@pytest.mark.parametrize("secret", ["redis", "1", ""])
def test_a_short_one_would_be_told_by_what_is_missing(secret: str) -> None:
    assert hiding(settings(redis_password=secret))("no redis at port 1") == "no redis at port 1"


def test_a_part_of_a_word_is_no_secret() -> None:
    assert (
        hiding(settings(redis_password="stream"))("streams, upstream, stream.") == "streams, upstream, ***."
    )


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ("redis://:pw@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("https://ann:pw@host/x?a=b", "https://***@host/x?a=b"),
        ("unix://user:p@ss@/run/x", "unix://***@/run/x"),
        (f"GET /sse?user_id=1&access_token={TOKEN} 1.1", "GET /sse?user_id=1&access_token=*** 1.1"),
        ("GET /sse?access%5ftoken=abc&x=1", "GET /sse?access%5ftoken=***&x=1"),
        ("GET /?%61ccess_token=abc", "GET /?%61ccess_token=***"),
        ("/?Token=abc&password=x&secret=y&api-key=z", "/?Token=***&password=***&secret=***&api-key=***"),
        (f"the token {TOKEN}, it is", "the token ***, it is"),
        (f"cut off: {TOKEN[:40]}", "cut off: ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
        ("sent Bearer abcdef1234 to", "sent Bearer *** to"),
        ("bearer abcdef1234", "bearer ***"),
        ("Basic YW5uOnB3", "Basic ***"),
        ("Cookie: tok=abc; other=def\nnext", "Cookie: ***\nnext"),
        ("{'cookie': 'tok=abc; other=def', 'host': 'x'}", "{'cookie': '***', 'host': 'x'}"),
        ("[(b'cookie', b'tok=abc'), (b'host', b'x')]", "[(b'cookie', b'***'), (b'host', b'x')]"),
        ('{"set-cookie": "tok=abc"}', '{"set-cookie": "***"}'),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
    ],
)
def test_what_others_put_into_a_line(said: str, hidden: str) -> None:
    assert hide(said) == hidden


@pytest.mark.parametrize(
    "said",
    [
        "streams are open to everybody who reaches the port, for any user_id and any topic (SSE_AUTH)",
        "pages of this origin may not use the user's cookie (SSE_CORS_ORIGINS)",
        "Running on http://127.0.0.1:8085 (CTRL + C to quit)",
        "mail to ann@example.com",
        "a basic question of the bearer",
        "the token is required: Authorization or cookie",
        "eyJust a word",
        'GET /sse?user_id=1&topic=orders/17 1.1" 200',
        "reason='not JSON' count=1 path=a\\b",
    ],
)
def test_other_lines_stay_as_they_are(said: str) -> None:
    assert hide(said) == said


def test_values_of_all_kinds() -> None:
    class Rude:
        def __repr__(self) -> str:
            return f"<Rude {TOKEN}>"

    value = {
        "list": [TOKEN, 1, None, True, 1.5],
        TOKEN: ({TOKEN},),
        "cookie": "tok=abc",
        "rude": Rude(),
        "bytes": TOKEN.encode(),
    }
    assert hidden_in(value, hide) == {
        "list": ["***", 1, None, True, 1.5],
        "***": [["***"]],
        "cookie": "***",
        "rude": "<Rude ***>",
        "bytes": "b'***'",
    }


@pytest.mark.parametrize(
    "text",
    [
        "a" * 200_000,
        "a:" * 100_000,
        "a://" * 50_000,
        "eyJ-" * 50_000,
        "eyJa." * 50_000,
        "Bearer" + "+" * 200_000,
        "Bearer " * 30_000,
        "%=" * 100_000,
        "cookie" * 30_000,
        "cookie:" * 30_000,
        '\\"' * 100_000,
    ],
    ids=lambda text: text[:8],
)
def test_the_time_it_takes_grows_with_the_length_alone(text: str) -> None:
    """What is quadratic would take minutes here."""
    assert hide(text)
