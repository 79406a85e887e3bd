"""`GET /position`: where a page begins that is being rendered."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.support.inside import Client, client_of, flush_now, note, opened, settings
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.targets import topic
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


PARTS: dict[str, Any] = {"public_position": True, "redis_stream": "notes", "stream_partitions": 8}


async def asked(service: Service, query: str) -> tuple[int, Any]:
    response = await client_of(service).get(f"/position?{query}")
    return response.status_code, json.loads(await response.get_data())


@pytest.fixture
def at_valkey(valkey: int) -> dict[str, Any]:
    return {**PARTS, "redis_host": "127.0.0.1", "redis_port": valkey}


async def test_of_partitions_redis_is_asked_for_those_of_the_stream(at_valkey: dict[str, Any]) -> None:
    service = Service(settings(**{**at_valkey, "redis_stream": "position-parts"}))
    assert service.positions is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(service.positions.run)
        ann, news = Layout("", 8).of("ann"), Layout("", 8).of(topic("orders/17"))
        assert await asked(service, "user_id=ann") == (200, {"position": f"8~{ann}.0"})
        both = f"8~{ann}.0,{news}.0"
        assert await asked(service, "user_id=ann&topic=orders%2F17") == (200, {"position": both})
        everything = await asked(service, "")
        assert everything == (200, {"position": "8~" + ",".join(f"{n}.0" for n in range(8))})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("user_id=", "user_id"),
        ("user_id=*", "everybody"),
        ("topic=*", "topic"),
        (f"user_id={'x' * 129}", "user_id"),
        ("userid=ann", "'userid'"),
        ("&".join(f"user_id={n}" for n in range(1001)), "1000"),
    ],
)
async def test_what_no_stream_can_follow_is_refused(query: str, told: str) -> None:
    status, answer = await asked(Service(settings(**PARTS)), query)
    assert (status, answer["status"]) == (400, 400)
    assert told in answer["detail"]


async def test_an_id_that_would_be_too_long_is_refused(at_valkey: dict[str, Any]) -> None:
    service = Service(settings(**{**at_valkey, "stream_partitions": 1024}))
    assert service.positions is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(service.positions.run)
        status, answer = await asked(service, "")
        assert status == 400
        assert "1024 partitions" in answer["detail"]
        assert (await asked(service, "user_id=ann"))[0] == 200
        nursery.cancel_scope.cancel()


async def test_of_partitions_whose_redis_is_away_nobody_is_told_where_it_is() -> None:
    service = Service(settings(**PARTS, redis_host="127.0.0.1", redis_port=1))
    assert service.positions is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(service.positions.run)
        status, answer = await asked(service, "user_id=ann")
        assert (status, answer["status"]) == (503, 503)
        assert "127.0.0.1" not in answer["detail"]
        nursery.cancel_scope.cancel()
