"""What the service promises, and the wire format, under every command."""

from __future__ import annotations

import re

import pytest
import redis

from tests.support.client import eventually, streaming, streams
from tests.support.process import Service, Services
from tests.support.variants import COMMANDS, TRIO_SSE, VARIANTS, Variant

pytestmark = pytest.mark.integration

RFC3339_UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"


async def test_a_stream_begins_with_headers_retry_position_and_confirmation(served: Service) -> None:
    async with streaming(served.port) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["access-control-allow-origin"] == "*"
        assert stream.headers["transfer-encoding"] == "chunked"
        assert not {"content-length", "content-encoding"} & set(stream.headers)
        assert stream.parser.retry is not None
        assert 2000 <= stream.parser.retry <= 5000
        assert re.fullmatch(r"[0-9a-f]{12}\.\d+", stream.connected.id)
        said = stream.connected.json
        assert said["user_id"] == "1", "the default user"
        assert said["connection_id"]
        assert re.fullmatch(RFC3339_UTC, said["server_time"])
        assert said["heartbeat_seconds"] == 30
        assert said["replayed"] == 0


async def test_a_message_reaches_all_connections_of_its_user_and_nobody_else(served: Service) -> None:
    async with streams(served.port, ["1", "1", "1", "2"]) as (*mine, other):
        served.publish(1, message="for 1")
        served.publish("2", message="for 2")
        assert [(await stream.notification())["message"] for stream in mine] == ["for 1"] * 3
        assert (await other.notification())["message"] == "for 2", "the first it got is its own"
        served.publish(["1", 2], message="for both")
        served.publish("*", message="for everybody")
        for stream in (*mine, other):
            assert (await stream.notification())["message"] == "for both"
            assert (await stream.notification())["message"] == "for everybody"


async def test_the_payload_passes_through_and_created_at_is_added(served: Service) -> None:
    given = {"message": {"text": "ünï\r\n\u2028", "n": [1.5, None, 2**60]}, "unknown": True}
    async with streaming(served.port, "pass-through") as stream:
        served.publish("pass-through", **given)
        received = await stream.notification()
        assert re.fullmatch(RFC3339_UTC, received.pop("created_at"))
        assert received == {"user_id": "pass-through", **given}
        served.publish("pass-through", created_at="2024-01-01T12:00:00Z")
        assert (await stream.notification())["created_at"] == "2024-01-01T12:00:00Z"


async def test_a_message_may_name_its_event_and_every_event_has_an_id(served: Service) -> None:
    async with streaming(served.port, "named") as stream:
        served.publish("named", event="order", n=1)
        event = await stream.event()
        assert event.name == "order"
        assert event.json["n"] == 1
        assert event.id != stream.connected.id


async def test_a_heartbeat_is_an_event_with_data(start: Services) -> None:
    for service in start.each((TRIO_SSE, *VARIANTS[-2:]), SSE_HEARTBEAT_SECONDS="0.2"):
        async with streaming(service.port) as stream:
            assert stream.connected.json["heartbeat_seconds"] == 0.2
            heartbeat = await stream.event()
            assert heartbeat.name == "heartbeat"
            assert re.fullmatch(RFC3339_UTC, heartbeat.json["server_time"])


async def test_a_position_that_is_not_known_is_answered_by_a_gap(served: Service) -> None:
    async with streaming(served.port, headers=[("last-event-id", "1-1")]) as stream:
        gap = await stream.event()
        assert gap.name == "gap"
        assert gap.json == {"reason": "unknown_id", "dropped": None}


def test_health(served: Service) -> None:
    for path in ("/healthz", "/readyz"):
        answer = served.get(path)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        head = served.get(path, method="HEAD")
        assert head.status == 200
        assert head.body == b""
    assert served.get("/healthz").json == {"status": "ok"}
    assert served.get("/readyz").json["status"] == "ready"


async def test_readiness_counts_connections_and_users(served: Service) -> None:
    await eventually(lambda: served.connections == 0, "all others have left")
    async with streams(served.port, ["a", "a", "b"]):
        ready = served.get("/readyz").json
        assert (ready["connections"], ready["users"]) == (3, 2)


async def test_head_of_a_stream_opens_none(served: Service) -> None:
    await eventually(lambda: served.connections == 0, "all others have left")
    answer = served.get("/sse", method="HEAD")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body == b""
    assert served.connections == 0


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/sse?user_id=" + "x" * 129, 400),
        ("GET", "/sse?user_id=%00", 400),
        ("GET", "/sse?user_id=%ff", 400),
        ("GET", "/sse?user_id=*", 400),
        ("GET", "/nowhere", 404),
        ("GET", "/sse/", 404),
        ("POST", "/sse", 405),
        ("DELETE", "/readyz", 405),
    ],
)
def test_refusals_are_problem_documents_that_other_origins_can_read(
    served: Service, method: str, target: str, status: int
) -> None:
    answer = served.get(target, method=method, headers={"Origin": "https://page.example"})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert ("allow" in answer.headers) == (status == 405)


def test_preflight(served: Service) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    answer = served.get("/sse", method="OPTIONS", headers=asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "GET" in answer.headers["access-control-allow-methods"]
    assert "Last-Event-ID" in answer.headers["access-control-allow-headers"]


def test_the_test_page_is_served(served: Service) -> None:
    answer = served.get("/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"new EventSource(" in answer.body


async def test_http_1_0_gets_a_stream_that_is_not_chunked(served: Service) -> None:
    async with streaming(served.port, "old", http_version="1.0") as stream:
        served.publish("old", n=1)
        assert (await stream.notification())["n"] == 1


async def test_the_default_channel_is_the_one_of_the_contract(start: Services) -> None:
    service = start(SSE_REDIS_CHANNEL=None)
    assert service.channel == "notifications"
    async with streaming(service.port) as stream:
        service.publish_raw([b'{"user_id":1,"message":"hello","created_at":"2024-01-01T12:00:00Z"}'])
        assert await stream.notification() == {
            "user_id": 1,
            "message": "hello",
            "created_at": "2024-01-01T12:00:00Z",
        }


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_two_workers(start: Services, valkey: int, variant: Variant) -> None:
    service = start(variant, SSE_WORKERS="2") if variant is TRIO_SSE else start(variant, "-w", "2")
    with redis.Redis(port=valkey) as client:
        await eventually(
            lambda: client.pubsub_numsub(service.channel)[0][1] == 2, "both workers have subscribed"
        )
    async with streams(service.port, ["1"] * 8) as opened:
        service.publish(1, message="by whichever worker")
        for stream in opened:
            assert (await stream.notification())["message"] == "by whichever worker"
    assert service.stop().code == 0
