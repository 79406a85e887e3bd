"""Who may publish what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import settings
from trio_sse.access.publishers import Publishers
from trio_sse.settings import SettingsError


def publishers(tokens: str | None) -> Publishers:
    return Publishers(settings(publish_tokens=tokens))


def message(*topics: str, users: tuple[str, ...] | None = ()) -> Any:
    """What of a notification counts here."""
    return SimpleNamespace(users=users, topics=topics)


@given(
    st.text(),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters=",=\r\n"), min_size=1), max_size=4),
)
def test_a_token_is_one_of_the_list_and_nothing_else(given_token: str, tokens: list[str]) -> None:
    try:
        given_token.encode()
    except UnicodeEncodeError:
        return  # no header can have it
    known = publishers(",".join(tokens))
    assert known.know(given_token) is (given_token in {token.strip() for token in tokens} - {""})


def test_every_token_is_compared_whatever_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return other == b"three"

    monkeypatch.setattr("trio_sse.access.publishers.hmac.compare_digest", compare_digest)
    assert publishers("one,two=news,three").know("one")
    assert compared == [b"one", b"two", b"three"]
    assert not publishers("one,two").know("one"), "nothing else decides"


@pytest.mark.parametrize("token", ["all", "all="])
@pytest.mark.parametrize(
    "notification",
    [message(users=None), message(users=("ann",)), message("news"), message("x", users=("ann",))],
)
def test_a_token_that_is_not_bound_is_for_everything(token: str, notification: Any) -> None:
    assert publishers("all,all=,other=orders/**").refusal(token, notification) is None


@pytest.mark.parametrize(
    ("notification", "reason"),
    [
        (message("orders/17"), None),
        (message("orders/17", "orders/a/b", "news"), None),
        (message("orders"), "'orders'"),
        (message("orders/"), "'orders/'"),
        (message("orders/1", "chat"), "'chat'"),
        (message("chat", "orders/1"), "'chat'"),
        (message("a\u202eb"), r"'a\u202eb'"),
        (message(), "for a user or for everybody"),
        (message(users=None), "for a user or for everybody"),
        (message("orders/1", users=None), "for a user or for everybody"),
        (message(users=("orders/17",)), "for a user or for everybody"),
        (message("orders/1", users=("ann",)), "for a user or for everybody"),
    ],
)
def test_a_token_that_is_bound_is_for_its_topics_and_nobody_else(
    notification: Any, reason: str | None
) -> None:
    bound = publishers("all,two=orders/**,two=news,three=chat")
    refusal = bound.refusal("two", notification)
    assert (refusal is None) is (reason is None)
    assert (reason or "") in (refusal or "")
    assert bound.refusal("three", message("chat")) is None
    assert bound.refusal("three", message("news"))


def test_what_is_bound_in_one_place_is_bound() -> None:
    """The settings refuse it; were they not asked, it would not be for everything."""
    assert publishers("one,one=news").refusal("one", message("orders"))
    assert publishers("one=news,one").refusal("one", message("orders"))


@pytest.mark.parametrize("entry", ["or*", "a/**/b", "***", "x" * 129])
def test_a_binding_to_what_is_no_topic_is_a_line_that_shows_no_secret(entry: str) -> None:
    with pytest.raises(SettingsError) as caught:
        publishers(f"good=news,s3cret={entry},other=**/")
    first, second = caught.value.lines
    assert first.startswith("SSE_PUBLISH_TOKENS: entry 2 ")
    assert second.startswith("SSE_PUBLISH_TOKENS: entry 3 ")
    assert "s3cret" not in first + second
    assert f"{entry}," not in first


def test_without_tokens_nobody_may() -> None:
    for tokens in (None, "", " , "):
        assert not publishers(tokens).know("")
        assert not publishers(tokens).know("one")
