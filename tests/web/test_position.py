"""`GET /position`: where a page begins that is being rendered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.inside import Client, client_of, flush_now, note, opened, settings
from trio_sse.service import Service

ONE = {"authorization": "Bearer one"}


async def position(service: Service, headers: dict[str, str]) -> tuple[int, Any]:
    response = await client_of(service).get("/position", headers=headers)
    return response.status_code, json.loads(await response.get_data())


def publish(service: Service, number: int) -> None:
    service.hub.dispatch(note("ann", data=b"%d" % number))
    flush_now(service.hub)


async def test_a_page_that_opens_its_stream_later_misses_nothing_in_between() -> None:
    service = Service(settings(publish_tokens="one"))
    publish(service, 1)
    status, answer = await position(service, ONE)
    assert status == 200
    publish(service, 2)
    client = Client(opened(service, "ann", answer["position"]))
    publish(service, 3)
    assert client.data[1:] == ["2", "3"]


async def test_it_serves_before_anything_was_published() -> None:
    service = Service(settings(public_position=True))
    _, answer = await position(service, {})
    publish(service, 1)
    assert Client(opened(service, "ann", answer["position"])).data[1:] == ["1"]


@pytest.mark.parametrize(
    ("values", "headers", "status"),
    [
        ({}, {}, 404),
        ({"publish_tokens": "one"}, {}, 401),
        ({"publish_tokens": "one"}, {"authorization": "Bearer other"}, 401),
        ({"publish_tokens": "one"}, ONE, 200),
        ({"publish_tokens": "one=orders/**"}, ONE, 200),
        ({"public_position": True}, {}, 200),
    ],
)
async def test_who_may_ask(values: dict[str, Any], headers: dict[str, str], status: int) -> None:
    assert (await position(Service(settings(**values)), headers))[0] == status


async def test_until_the_log_was_read_the_place_is_not_known() -> None:
    service = Service(settings(public_position=True, redis_stream="notes"))
    status, answer = await position(service, {})
    assert (status, answer["status"]) == (503, 503)
    service.history.read_up_to((5, 0))
    assert await position(service, {}) == (200, {"position": "5-0"})
