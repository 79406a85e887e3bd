"""`GET /presence`: who may ask what, and how the answer reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.inside import client_of, settings
from trio_sse.broker.presence_records import MOST_IDS, Here
from trio_sse.broker.publisher import UnavailableError
from trio_sse.delivery.targets import Target, topic
from trio_sse.service import Service
from trio_sse.web.presence import MOST_TARGETS

KNOWN = {
    "ann": Here(2),
    "bob": Here(0),
    topic("news"): Here(5, 3, ("ann", "bob"), more=True),
}


async def ask(
    monkeypatch: pytest.MonkeyPatch, query: str, token: str = "one", **more: Any
) -> tuple[int, Any, list[tuple[Sequence[Target], int]]]:
    """The status, the answer, and what Redis was asked."""
    asked: list[tuple[Sequence[Target], int]] = []

    async def known(targets: Sequence[Target], most_ids: int) -> dict[Target, Here]:
        asked.append((targets, most_ids))
        if "lost" in targets:
            raise UnavailableError("Redis is away", unsure=False)
        return {target: KNOWN.get(target, Here(-1)) for target in targets}

    service = Service(settings(publish_tokens="one,two=orders/**", **{"presence": True, **more}))
    if service.presence is not None:
        monkeypatch.setattr(service.presence, "ask", known)
    response = await client_of(service).get(
        f"/presence?{query}", headers={"authorization": f"Bearer {token}"}
    )
    return response.status_code, json.loads(await response.get_data()), asked


async def test_users_and_topics_are_answered_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer, asked = await ask(
        monkeypatch, "user_id=ann&user_id=bob&user_id=eve&user_id=ann&topic=news&topic=orders%2F17"
    )
    assert status == 200
    assert answer == {
        "users": {
            "ann": {"online": True, "streams": 2},
            "bob": {"online": True, "streams": 0},
            "eve": {"online": False, "streams": 0},
        },
        "topics": {
            "news": {"online": True, "streams": 5, "users": 3},
            "orders/17": {"online": False, "streams": 0, "users": 0},
        },
    }
    assert asked == [(("ann", "bob", "eve", topic("news"), topic("orders/17")), 0)]


async def test_ids_are_given_to_whoever_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer, asked = await ask(monkeypatch, "topic=news&ids=true")
    assert answer["topics"]["news"] == {
        "online": True,
        "streams": 5,
        "users": 3,
        "ids": ["ann", "bob"],
        "more": True,
    }
    assert asked == [((topic("news"),), MOST_IDS)]


@pytest.mark.parametrize(
    ("query", "token", "status"),
    [
        ("user_id=ann", "nine", 401),
        ("user_id=ann", "two", 403),
        ("topic=news", "two", 403),
        ("topic=orders/1&topic=news", "two", 403),
        ("", "one", 400),
        ("ids=true", "one", 400),
        ("user_id=ann&ids=1", "one", 400),
        ("user_id=", "one", 400),
        ("topic=*", "one", 400),
        ("user_id=*", "one", 400),
        ("users=ann", "one", 400),
        ("&".join(f"user_id={n}" for n in range(MOST_TARGETS + 1)), "one", 400),
    ],
)
async def test_what_is_refused_asks_nothing_of_redis(
    monkeypatch: pytest.MonkeyPatch, query: str, token: str, status: int
) -> None:
    found, _, asked = await ask(monkeypatch, query, token)
    assert (found, asked) == (status, [])


async def test_a_token_that_is_bound_to_topics_may_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await ask(monkeypatch, "topic=orders/1", "two"))[0] == 200


async def test_as_many_as_may_be_asked_for_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    query = "&".join(f"user_id={n}" for n in range(MOST_TARGETS))
    status, answer, _ = await ask(monkeypatch, query)
    assert (status, len(answer["users"])) == (200, MOST_TARGETS)


async def test_while_redis_is_away_the_answer_is_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer, _ = await ask(monkeypatch, "user_id=lost")
    assert (status, answer["detail"]) == (503, "Redis is away")


async def test_without_the_setting_there_is_no_such_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await ask(monkeypatch, "user_id=ann", presence=False))[0] == 404
