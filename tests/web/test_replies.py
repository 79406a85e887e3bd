"""Answers in JSON."""

from __future__ import annotations

import json
from typing import Any

from trio_sse.web.replies import json_reply, needs_token, problem_reply, try_again


async def body(response: Any) -> Any:
    return json.loads(await response.get_data())


async def test_a_document_is_json_that_nobody_keeps() -> None:
    response = json_reply({"a": [1, "王"]})
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.headers["cache-control"] == "no-store"
    assert await body(response) == {"a": [1, "王"]}


async def test_a_problem_has_its_status_its_headers_and_what_is_added() -> None:
    response = problem_reply(503, "why", {"retry-after": "1"}, {"publish": True})
    assert (response.status_code, response.content_type) == (503, "application/problem+json")
    assert (response.headers["cache-control"], response.headers["retry-after"]) == ("no-store", "1")
    assert await body(response) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "why",
        "publish": True,
    }


async def test_without_a_token_the_answer_says_which_and_for_what() -> None:
    response = needs_token("position", unless="SSE_PUBLIC_POSITION")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer realm="trio_sse position"'
    detail = (await body(response))["detail"]
    assert detail == "Authorization: Bearer with one of SSE_PUBLISH_TOKENS is required (SSE_PUBLIC_POSITION)"
    assert detail.startswith((await body(needs_token("publish")))["detail"])


async def test_what_is_not_there_for_now_is_to_be_asked_for_again() -> None:
    response = try_again("why")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await body(response))["detail"] == "why"
