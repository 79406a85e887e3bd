"""SSE_STREAM_PARTITIONS, by each command: streams from several partitions, over sockets and by Quart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import eventually, streaming
from tests.support.http2 import http2
from tests.support.partitioned import LAYOUT, Log, log_at
from tests.support.process import Service, Services
from tests.support.valkeys import certificate
from tests.support.variants import TRIO_SSE, VARIANTS, Variant
from trio_sse.delivery.partitions import Layout

pytestmark = pytest.mark.integration

TARGET = "/sse?user_id=42&topic=orders/17&topic=news&topic=%7Bx%7D&topic=a&topic=b"
TOPICS = ["orders/17", "news", "{x}", "a", "b"]


def partitioned(key: str) -> dict[str, Any]:
    partitions = str(LAYOUT.partitions)
    return {"SSE_REDIS_STREAM": key, "SSE_STREAM_PARTITIONS": partitions, "REDIS_MAIN_DB": "0"}


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def service(request: pytest.FixtureRequest, module_services: Services) -> Service:
    variant: Variant = request.param
    return module_services(variant, **partitioned(f"log-{variant}"))


@pytest.fixture
def log(request: pytest.FixtureRequest, service: Service, valkey: int) -> Iterator[Log]:
    key = f"log-{request.node.callspec.params['service']}"
    with log_at(valkey, Layout(key, LAYOUT.partitions)) as log:
        log.count = 1000 * (1 + len(request.node.name))
        yield log


async def test_a_stream_resumes_from_each_of_its_ids(service: Service, log: Log) -> None:
    async with streaming(service.port, target=TARGET) as stream:
        published = [log.add(topics=[topic]) for topic in TOPICS for _ in range(2)]
        published += [log.add(["42"], TOPICS), log.add(), log.add(["42", "7"])]
        seen: list[tuple[int, str]] = []
        for _ in published:
            event = await stream.until(lambda event: event.name == "message")
            seen.append((event[-1].json["n"], event[-1].id))
        assert sorted(number for number, _ in seen) == published
    for at, (_, id_) in enumerate(seen[:-1], 1):
        async with streaming(service.port, target=TARGET, headers=[("last-event-id", id_)]) as again:
            rest = [(await again.notification())["n"] for _ in seen[at:]]
            assert sorted(rest) == sorted(number for number, _ in seen[at:])


async def test_one_after_the_other_comes_at_once_and_in_order(service: Service, log: Log) -> None:
    async with streaming(service.port, target=TARGET) as stream, streaming(service.port, "42") as other:
        for _ in range(20):
            number = log.add(["42"], TOPICS)
            assert (await stream.notification())["n"] == number
            assert (await other.notification())["n"] == number
    await eventually(lambda: service.connections == 0, "both have left")


async def test_two_nodes_know_each_other_s_ids(start: Services, valkey: int) -> None:
    with log_at(valkey, Layout("log-two", 8)) as log:
        one, other = start.each([TRIO_SSE, TRIO_SSE], **partitioned("log-two"))
        last_id = ""
        for turn in range(6):
            service = (one, other)[turn % 2]
            headers = [("last-event-id", last_id)] if last_id else []
            async with streaming(service.port, target=TARGET, headers=headers) as stream:
                if last_id:
                    assert (await stream.notification())["n"] == log.count
                number = log.add(["42"], TOPICS)
                event = (await stream.until(lambda event: event.name == "message"))[-1]
                assert event.json["n"] == number
                last_id = event.id
            log.add(topics=TOPICS[turn % 5 :][:1])


async def test_over_http_2(start: Services, valkey: int, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    settings = {**partitioned("log-h2"), "SSE_TLS_CERT": str(cert), "SSE_TLS_KEY": str(key)}
    service = start(TRIO_SSE, **settings)
    with log_at(valkey, Layout("log-h2", 8)) as log:
        async with http2(service.port, str(cert)) as client:
            streams = [await client.get(path) for path in (TARGET, "/sse?user_id=42")]
            for stream in streams:
                assert (await stream.event()).name == "connected"
            for _ in range(5):
                number = log.add(["42"], TOPICS)
                for stream in streams:
                    assert (await stream.event()).json["n"] == number
