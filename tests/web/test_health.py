"""Health on two levels."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import socket
from typing import Any

import pytest
import trio
from quart.testing.client import QuartClient
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import client_of, requested, settings
from trio_sse.descriptors import RESERVE, descriptors
from trio_sse.service import Service
from trio_sse.web.app import App

TOKEN = "a-token-of-16-or-more"


@pytest.fixture
def service() -> Service:
    return Service(settings())


async def problem(response: Any) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = json.loads(await response.get_data())
    assert document["status"] == response.status_code
    return document


async def test_healthz_says_that_the_loop_turns(client: QuartClient) -> None:
    response = await client.get("/healthz")
    assert (response.status_code, await response.get_json()) == (200, {"status": "ok"})
    assert response.headers["cache-control"] == "no-store"


async def test_readyz_tells_why_no_messages_can_come(client: QuartClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 503
    told = await problem(response)
    assert (told["detail"], told["code"]) == ("Redis was not tried yet (redis_not_tried)", "redis_not_tried")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"redis_port": 1}, "redis_unreachable"),
        ({"redis_username": "s3cret", "redis_password": "s3cret"}, "redis_refused"),
        ({"redis_sentinels": "127.0.0.1:1", "redis_sentinel_master": "s3cret"}, "redis_unreachable"),
    ],
)
async def test_readyz_does_not_tell_strangers_where_redis_is(
    valkey: int, values: dict[str, Any], code: str
) -> None:
    given = {"redis_host": "127.0.0.1", "redis_port": valkey, **values}
    service = Service(settings(**given))
    with capture_logs() as lines:
        async with App(service).test_app() as running:
            response = await running.test_client().get("/readyz")
            body = str(await response.get_data(as_text=True))
    assert response.status_code == 503
    assert (await problem(response))["code"] == code
    for secret in ("127.0.0.1", "REDIS_", "s3cret", str(given["redis_port"]) + ":"):
        assert secret not in body
    (line,) = [line for line in lines if line["event"] == "no Redis, trying again"]
    assert "REDIS_" in line["problem"]


async def test_readyz_tells_that_the_service_stops(client: QuartClient, service: Service) -> None:
    service.hub.close()
    assert (await problem(await client.get("/readyz")))["detail"] == "stopping"


async def test_readyz_counts_connections_and_users_while_subscribed(valkey: int) -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=valkey))
    async with App(service).test_app() as running:
        async with requested(service) as stream:
            await stream.until(lambda request: b"connected" in request.body)
            response = await running.test_client().get("/readyz")
        told = await response.get_json()
        assert response.status_code == 200
        assert told["status"] == "ready"
        assert (told["connections"], told["users"], told["totals"]["streams"]) == (1, 1, 1)


async def test_healthz_fails_when_the_loop_has_not_turned_for_five_seconds(
    client: QuartClient, service: Service, mock_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(service.turning.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        assert await service.stuck() is None  # half a second of it was to pass anyway
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(6)
        assert await service.stuck() == ("loop_stuck", "the event loop has not turned for 6 s")
        nursery.cancel_scope.cancel()
    response = await client.get("/healthz")
    assert response.status_code == 503
    assert (await problem(response))["code"] == "loop_stuck"


async def test_healthz_fails_when_another_worker_does_not_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    class Main:
        pid = os.getpid()

    monkeypatch.setattr(multiprocessing, "parent_process", Main)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.siblings.run)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(service.siblings._name.rpartition("/")[0] + "/200")
            other.listen()
            assert await service.stuck() is None
            await trio.sleep(4)
            assert await service.stuck() is None
            await trio.sleep(1)
            assert (await service.stuck() or ("",))[0] == "worker_stuck"
            response = await client_of(service).get("/healthz")
            assert (await problem(response))["code"] == "worker_stuck"
        assert await service.stuck() is None
        nursery.cancel_scope.cancel()


async def test_strangers_are_not_told_the_counts_where_there_is_a_token(valkey: int) -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=valkey, metrics_token=TOKEN))
    async with App(service).test_app() as running:
        client = running.test_client()
        stranger = await client.get("/readyz")
        friend = await client.get("/readyz", headers={"authorization": f"Bearer {TOKEN}"})
    assert (stranger.status_code, friend.status_code) == (200, 200)
    assert await stranger.get_json() == {"status": "ready", "publish": False}
    assert "totals" in await friend.get_json()


async def test_readyz_fails_before_no_file_can_be_opened_any_more(valkey: int) -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=valkey))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with App(service).test_app() as running:
        client = running.test_client()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors().open + RESERVE - 1, hard))
            told = await problem(await client.get("/readyz"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert told["code"] == "no_descriptors"
        assert "LimitNOFILE" in told["detail"]
        assert (await client.get("/readyz")).status_code == 200


async def test_readyz_fails_while_the_canary_does_not_come_back(valkey: int) -> None:
    service = Service(settings(redis_host="127.0.0.1", redis_port=valkey, canary_seconds=60.0))
    async with App(service).test_app() as running:
        client = running.test_client()
        assert (await client.get("/readyz")).status_code == 200
        assert service._canary is not None
        service._canary.problem = "s3cret address"
        response = await client.get("/readyz")
        assert (await problem(response))["code"] == "canary_lost"
        assert "s3cret" not in await response.get_data(as_text=True)
        service._canary.problem = None
