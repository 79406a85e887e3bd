"""Problem documents, and refusals that other origins can read."""

from __future__ import annotations

import json

from trio_sse.access.problem import problem, refused


def test_what_a_refusal_says_in_headers_a_page_may_read() -> None:
    headers = dict(refused(429, "why", (("vary", "Origin"),), ("retry-after", "7"), ("x-more", "y")).headers)
    assert headers["access-control-expose-headers"] == "retry-after, x-more"
    assert (headers["retry-after"], headers["x-more"], headers["vary"]) == ("7", "y", "Origin")


def test_a_problem_document_has_the_title_of_its_status_and_what_is_added() -> None:
    document = json.loads(problem(503, "why", {"publish": True}))
    assert (document["title"], document["detail"]) == ("Service Unavailable", "why")
    assert document["publish"] is True
