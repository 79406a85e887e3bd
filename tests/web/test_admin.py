"""What only the bearer of SSE_ADMIN_TOKEN may ask, and how the answers read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio

from tests.support.inside import client_of, events, opened, requested, settings
from tests.support.tokens import SECRET
from trio_sse.admin import administration
from trio_sse.service import Service
from trio_sse.web import admin

TOKEN = "operators-0123456789abcdef"
BEARER = {"authorization": f"Bearer {TOKEN}"}
JWT: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET}


def service_of(**more: Any) -> Service:
    return Service(settings(redis_port=1, admin_token=TOKEN, **more))


async def ask(
    service: Service, path: str, body: Any = None, headers: dict[str, str] = BEARER
) -> tuple[int, Any]:
    """The status and the answer. Redis is away."""
    client = client_of(service)
    if body is None:
        response = await client.get(path, headers=headers)
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await client.post(path, headers=headers, data=data)
    return response.status_code, json.loads(await response.get_data())


PATHS = [
    ("/explain?user_id=ann", None),
    ("/admin/events", None),
    ("/disconnect", {"user_id": "ann"}),
    ("/revoke", {}),
]
PUBLISHER = "publisher-0123456789"
WRONG = ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xfc", f"Bearer {PUBLISHER}"]


@pytest.mark.parametrize(("path", "body"), PATHS)
@pytest.mark.parametrize("given", WRONG)
async def test_without_the_token_there_is_no_answer(path: str, body: Any, given: str) -> None:
    service = service_of(publish_tokens=PUBLISHER)
    connection = opened(service, "ann")
    status, problem = await ask(service, path, body, {"authorization": given} if given else {})
    assert status == 401
    assert "SSE_ADMIN_TOKEN" in problem["detail"]
    assert TOKEN not in str(problem)
    assert not connection.closed
    service.release(connection)


@pytest.mark.parametrize(("path", "body"), [*PATHS, ("/admin", None)])
async def test_where_no_token_is_set_there_are_no_such_paths(path: str, body: Any) -> None:
    status, _ = await ask(Service(settings()), path, body)
    assert status == 404


async def test_the_page_has_nothing_in_it_that_is_secret_and_loads_nothing() -> None:
    service = service_of(root_path="/notify")
    response = await client_of(service).get("/admin")
    page = str(await response.get_data(as_text=True))
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert TOKEN not in page
    assert '<meta name="root-path" content="/notify">' in page
    assert "src=" not in page
    assert 'href="http' not in page


async def test_a_user_is_explained() -> None:
    service = service_of()
    connection = opened(service, "ann")
    status, answer = await ask(service, "/explain?user_id=ann")
    assert status == 200
    assert answer["story"]["verdict"]["code"] == "ok"
    assert [stream["user"] for stream in answer["story"]["streams"]] == ["ann"]
    assert answer["asked"]["problem"]
    service.release(connection)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "neither user_id nor id"),
        ("user=ann", "there are user_id and id"),
        ("user_id=a%00", "control characters"),
        ("user_id=*", "everybody"),
        ("user_id=ann&id=nonsense", "no event id"),
    ],
)
async def test_what_cannot_be_explained_is_told(query: str, told: str) -> None:
    status, problem = await ask(service_of(), f"/explain?{query}")
    assert status == 400
    assert told in problem["detail"]


@pytest.mark.parametrize("by", ["stream", "user_id"])
async def test_streams_are_ended(by: str) -> None:
    service = service_of()
    connection, other = opened(service, "7"), opened(service, "8")
    assert connection.record is not None
    body = {"stream": connection.record.id} if by == "stream" else {"user_id": 7}
    status, answer = await ask(service, "/disconnect", body)
    assert (status, answer["ended"]) == (200, 1)
    assert connection.closed
    assert not other.closed
    assert answer["problem"], "the others could not be asked"
    for one in (connection, other):
        service.release(one)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        {},
        {"user": "ann"},
        {"user_id": "ann", "stream": "x"},
        {"jti": "a", "user_id": "ann"},
        {"jti": 5},
        {"user_id": "*"},
        {"user_id": ""},
        {"issued_before": "now"},
    ],
)
async def test_what_cannot_be_ended_ends_nothing(body: Any) -> None:
    service = service_of()
    connection = opened(service, "ann")
    status, problem = await ask(service, "/disconnect", body)
    assert status == 400, problem
    assert not connection.closed
    service.release(connection)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "one of jti, user_id and issued_before"),
        ({"jti": "a", "user_id": "ann"}, "stands alone"),
        ({"jti": ""}, "1 to 1000"),
        ({"jti": "x" * 1001}, "1 to 1000"),
        ({"user_id": "a\0"}, "control characters"),
        ({"issued_before": time.time() + 3600}, "not in the future"),
        ({"issued_before": -1}, "not in the future"),
        ({"jti": "a", "seconds": 0}, "SSE_REVOCATION_SECONDS"),
        ({"jti": "a", "seconds": 1e9}, "SSE_REVOCATION_SECONDS"),
        ({"jti": "a", "stream": "x"}, "stream"),
    ],
)
async def test_what_cannot_be_revoked_is_told(body: Any, told: str) -> None:
    status, problem = await ask(service_of(**JWT), "/revoke", body)
    assert (status, told in problem["detail"]) == (400, True), problem


async def test_without_tokens_there_are_none_to_revoke() -> None:
    status, problem = await ask(service_of(), "/revoke", {"jti": "a"})
    assert (status, "SSE_AUTH" in problem["detail"]) == (400, True)


async def test_without_redis_nothing_is_revoked() -> None:
    status, problem = await ask(service_of(**JWT), "/revoke", {"jti": "a"})
    assert status == 503
    assert "Redis" in problem["detail"]


async def test_what_the_service_does_comes_as_an_event_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (admin, administration):
        monkeypatch.setattr(module, "VIEW_SECONDS", 0.01)
    service = service_of()
    assert service.administration is not None
    headers = [(name.encode(), value.encode()) for name, value in BEARER.items()]
    async with requested(service, "/admin/events", headers=headers) as request:
        await request.until(lambda request: request.body.count(b"event: view") >= 2)
        assert request.headers["content-type"] == "text/event-stream"
        assert service.administration.viewers == 1
        view = json.loads(events(request.body)[0].data)
        assert [process["streams"] for process in view["processes"]] == [0]
        service.hub.draining = True
        await request.until(lambda request: request.ended)
    assert service.administration.viewers == 0


async def test_there_is_a_bound_to_live_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MOST_VIEWERS", 0)
    status, _ = await ask(service_of(), "/admin/events")
    assert status == 503


async def test_a_viewer_that_leaves_is_gone() -> None:
    service = service_of()
    assert service.administration is not None
    headers = [(name.encode(), value.encode()) for name, value in BEARER.items()]
    async with requested(service, "/admin/events", headers=headers) as request:
        await request.until(lambda request: bool(request.body))
    with trio.fail_after(5):
        while service.administration.viewers:
            await trio.sleep(0.01)
