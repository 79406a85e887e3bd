"""`POST /publish` on real server processes: what is accepted is delivered once, whatever happens to Redis."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.support.client import Stream, connect, eventually, streaming, streams
from tests.support.each_of import each_of
from tests.support.log import durable
from tests.support.process import Answer, Service, Services
from tests.support.variants import HYPERCORN, TRIO_SSE, VARIANTS

pytestmark = pytest.mark.integration

TOKENS: dict[str, Any] = {"SSE_PUBLISH_TOKENS": "token-number-one,token-number-two"}
ONE = {"Authorization": "Bearer token-number-one"}


@pytest.fixture(scope="module")
def all_publishing(module_services: Services) -> list[Service]:
    return module_services.each(VARIANTS, **TOKENS)


publishing = each_of("all_publishing", VARIANTS)


def post(service: Service, data: Any, **headers: str) -> Answer:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.get("/publish", method="POST", body=body, headers={**ONE, **given})


async def test_what_is_published_reaches_its_user_and_the_answer_tells(publishing: Service) -> None:
    async with streams(publishing.port, ["ann", "ann", "bob"]) as opened:
        answer = post(publishing, [{"user_id": "ann", "n": 1}, {"user_id": "bob", "n": 2}, {"user_id": "x"}])
        assert answer.status == 200
        told = answer.json["messages"]
        took = [one["connections"] for one in told]
        assert [(way["took"] + way["buffered"], way["dropped"]) for way in took] == [(2, 0), (1, 0), (0, 0)]
        for stream, n in zip(opened, (1, 1, 2), strict=True):
            event = await stream.event()
            assert event.json["n"] == n
            assert event.id == told[n - 1]["id"]
            assert "created_at" in event.json


async def test_other_nodes_have_it_too(start: Services) -> None:
    here, there = start.each((TRIO_SSE, HYPERCORN), SSE_REDIS_CHANNEL="both-nodes", **TOKENS)
    async with streaming(here.port, "ann") as one, streaming(there.port, "ann") as other:
        answer = post(here, {"user_id": "ann", "n": 1})
        assert answer.json["messages"][0]["connections"]["took"] == 1, "those of this node"
        assert (await one.notification())["n"] == (await other.notification())["n"] == 1


async def test_many_clients_at_once_are_all_delivered_in_their_own_order(publishing: Service) -> None:
    clients, each = 6, 15
    async with (
        streaming(publishing.port, "ann") as stream,
        httpx.AsyncClient(headers=ONE, timeout=30) as http,
        trio.open_nursery() as nursery,
    ):

        async def client(number: int) -> None:
            for n in range(each):
                message = {"user_id": "ann", "client": number, "n": n}
                answer = await http.post(f"{publishing.url}/publish", json=message)
                assert answer.status_code == 200, answer.text
                way = answer.json()["messages"][0]["connections"]
                assert sum(way.values()) == 1

        for number in range(clients):
            nursery.start_soon(client, number)
        seen: dict[int, list[int]] = {number: [] for number in range(clients)}
        for _ in range(clients * each):
            got = await stream.notification()
            seen[got["client"]].append(got["n"])
        assert seen == {number: [*range(each)] for number in range(clients)}


async def test_a_list_is_published_whole_or_not_at_all(publishing: Service) -> None:
    async with streaming(publishing.port, "ann") as stream:
        good = [{"user_id": "ann", "n": n} for n in range(1000)]
        wrong: list[Any] = [{"n": 1}, 5, {"user_id": []}, {"user_id": "ann", "event": "gap"}]
        for bad in wrong:
            answer = post(publishing, [*good[:500], bad, *good[500:999]])
            assert answer.status == 422
            assert [error["index"] for error in answer.json["errors"]] == [500]
        assert post(publishing, [*good, good[0]]).status == 422
        answer = post(publishing, [*good[:5], {"user_id": "ann", "n": 5}])
        assert answer.status == 200
        for n in range(6):
            assert (await stream.notification())["n"] == n


async def test_the_same_key_publishes_once(publishing: Service) -> None:
    async with streaming(publishing.port, "ann") as stream:
        for repeated in (False, True):
            answer = post(publishing, {"user_id": "ann", "n": 1}, idempotency_key=f"order {publishing.port}")
            assert (answer.status, answer.json["repeated"]) == (200, repeated)
        other = post(publishing, {"user_id": "ann", "n": 2}, idempotency_key=f"order {publishing.port}")
        assert other.status == 422
        post(publishing, {"user_id": "ann", "n": 3})
        assert [(await stream.notification())["n"] for _ in range(2)] == [1, 3]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Bearer three",
        "Bearer token-number-onee",
        "Bearer token-number-one,token-number-two",
        "Basic token-number-one",
        "token-number-one",
    ],
)
def test_without_a_right_token_nothing_is_published(
    all_publishing: list[Service], authorization: str | None
) -> None:
    for service in all_publishing[::2]:
        given = {} if authorization is None else {"Authorization": authorization}
        answer = service.get("/publish", method="POST", body=b'{"user_id":1}', headers=given)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="trio_sse publish"'
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_cookie_is_no_token(publishing: Service) -> None:
    """A page of somebody else cannot publish on a user's behalf."""
    headers = {
        "Cookie": "Authorization=Bearer token-number-one; token=token-number-one",
        "Origin": "https://evil.example",
    }
    answer = publishing.get(
        "/publish?access_token=token-number-one", method="POST", body=b"{}", headers=headers
    )
    assert answer.status == 401


def test_without_tokens_there_is_no_such_route(served: Service) -> None:
    assert post(served, {"user_id": 1}).status == 404
    assert served.get("/readyz").json["publish"] is False


async def test_oversized_bodies_are_refused_and_nobody_else_notices(publishing: Service) -> None:
    async with streaming(publishing.port, "ann") as stream:
        async with httpx.AsyncClient(headers={**ONE, "Connection": "close"}, timeout=30) as http:
            url = f"{publishing.url}/publish"
            too_long = json.dumps({"user_id": "ann", "m": "x" * 70_000})
            assert (await http.post(url, content=too_long)).status_code == 422
            for declared in (True, False):
                await _send_too_much(publishing.port, declared)
            deep = await http.post(url, content=b'{"user_id":"ann","m":' + b"[" * 50_000)
            assert deep.status_code == 422
        assert post(publishing, {"user_id": "ann", "n": 1}).status == 200
        assert (await stream.notification())["n"] == 1


async def _send_too_much(port: int, declared: bool) -> None:
    """A body of 20 MB, by its length or in chunks. The service may close before all of it is sent."""
    size = 20_000_000
    length = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
    head = f"POST /publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-number-one\r\n{length}\r\n\r\n"
    piece = b"x" * 100_000
    received = b""
    async with await connect(port) as transport, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            try:
                await transport.send_all(head.encode())
                for _ in range(size // len(piece)):
                    await transport.send_all(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
            except trio.BrokenResourceError:
                pass

        try:
            while b"\r\n\r\n" not in received and (data := await transport.receive_some()):
                received += data
        except trio.BrokenResourceError:
            pass  # it was told to go while there was more to come
        nursery.cancel_scope.cancel()
    assert not received or received.startswith(b"HTTP/1.1 413 "), received[:100]


async def test_while_redis_is_away_it_says_so_and_when_to_try_again(start: Services) -> None:
    service = start(redis_port=1, ready="/healthz", **TOKENS)
    answer = post(service, {"user_id": "ann"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "REDIS_PORT" in answer.json["detail"]
    assert service.get("/readyz").json["publish"] is True


@pytest.mark.parametrize("variant", [TRIO_SSE, HYPERCORN], ids=str)
async def test_redis_is_killed_in_between_and_each_accepted_message_is_delivered_once(
    start: Services, tmp_path: Path, variant: Any
) -> None:
    """With a stream that Redis keeps in a file, and a key for each request that is tried again."""
    publishers, each = 4, 30
    accepted: Counter[str] = Counter()
    tries = 0
    with durable(tmp_path) as server:
        values: dict[str, Any] = {"SSE_REDIS_STREAM": "events", "SSE_HISTORY_SECONDS": "600", **TOKENS}
        service = start(variant, redis_port=server.port, **values)
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(streaming(service.port, "ann")) for _ in range(3)]
            http = await stack.enter_async_context(httpx.AsyncClient(headers=ONE, timeout=30))
            half = trio.Event()

            async def publisher(number: int) -> None:
                nonlocal tries
                for n in range(each):
                    key = f"{number}-{n}"
                    body = [{"user_id": "ann", "key": key, "part": part} for part in range(2)]
                    while True:
                        tries += 1
                        answer = await http.post(
                            f"{service.url}/publish", json=body, headers={"Idempotency-Key": key}
                        )
                        if answer.status_code == 200:
                            break
                        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
                        await trio.sleep(0.05)
                    accepted[key] += 1
                    if sum(accepted.values()) == publishers * each // 3:
                        half.set()

            async with trio.open_nursery() as nursery:
                for number in range(publishers):
                    nursery.start_soon(publisher, number)
                await half.wait()
                for _ in range(2):
                    await server.in_thread(server.kill)
                    await trio.sleep(0.3)
                    await server.in_thread(server.start)
                    await eventually(partial(service.answers, "/readyz"), "ready again", seconds=30)
            assert tries > publishers * each, "some had to be tried again"
            for stream in opened:
                got = await received(stream, 2 * publishers * each)
                assert got == Counter({(key, part): 1 for key in accepted for part in range(2)})


async def received(stream: Stream, count: int) -> Counter[tuple[str, int]]:
    """So many messages, and nothing but messages and heartbeats."""
    found: Counter[tuple[str, int]] = Counter()
    while found.total() < count:
        got = await stream.notification()
        found[got["key"], got["part"]] += 1
    return found
