"""Answers in JSON: documents and problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from quart import Response

from trio_sse.access.problem import problem

_NONE: Mapping[str, str] = MappingProxyType({})


def json_reply(data: object) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(data), 200, headers, content_type="application/json")


def problem_reply(
    status: int, detail: str, headers: Mapping[str, str] = _NONE, more: Mapping[str, object] = _NONE
) -> Response:
    """A problem document (RFC 9457). `more`: members in addition to those that every problem has."""
    return Response(
        problem(status, detail, more),
        status,
        {"cache-control": "no-store", **headers},
        content_type="application/problem+json",
    )
