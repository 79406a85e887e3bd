"""Spans of messages, as a collector gets them from real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.client import eventually, streaming, streams
from tests.support.collector import PARENT, TRACE, Collector, collector, traceparent, values
from tests.support.process import Service, Services, wait_until
from tests.support.scraped import Samples, samples
from tests.support.variants import TRIO_SSE

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-16-or-more"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def there() -> Iterator[Collector]:
    with collector() as taking:
        yield taking


def start_traced(start: Services, there: Collector, **more: Any) -> Service:
    return start(
        TRIO_SSE,
        SSE_TRACES_PER_SECOND="100",
        SSE_METRICS_TOKEN=TOKEN,
        SSE_PUBLISH_TOKENS=TOKEN,
        OTEL_EXPORTER_OTLP_ENDPOINT=there.url,
        **more,
    )


def scrape(service: Service) -> Samples:
    return samples(service.get("/metrics", headers=BEARER).body.decode())


def attributes(there: Collector) -> list[dict[str, Any]]:
    return [values(span.attributes) for span in there.spans]


async def test_a_message_with_a_traceparent_is_a_span(start: Services, there: Collector) -> None:
    service = start_traced(start, there)
    async with streams(service.port, ["ann", "ann", "bob"]) as opened:
        service.publish("ann", n=0)
        service.publish("ann", n=1, traceparent=traceparent(sampled=False))
        service.publish("ann", n=2, traceparent=traceparent())
        service.publish("nobody", n=3, traceparent=traceparent())
        (event,) = [
            event
            for event in await opened[0].until(lambda event: event.name == "message" and event.json["n"] == 2)
            if event.name == "message" and event.json["n"] == 2
        ]
        await eventually(lambda: there.spans, "a span has come")
    assert event.json["traceparent"] == traceparent()
    (span,) = there.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    found = values(span.attributes)
    assert (found["trio_sse.streams"], found["trio_sse.taken"]) == (2, 2)
    assert found["messaging.message.id"] == event.id
    assert scrape(service)["traces_total", "exported"] == 1


async def test_each_worker_tells_of_its_own_streams(start: Services, there: Collector) -> None:
    service = start_traced(start, there, SSE_WORKERS="2")
    await eventually(lambda: scrape(service)["workers",] == 2 and scrape(service)["ready",], "both are there")
    async with streams(service.port, ["ann"] * 40):
        service.publish("ann", traceparent=traceparent())
        await eventually(lambda: len(there.spans) == 2, "both have told")
    assert sum(found["trio_sse.taken"] for found in attributes(there)) == 40
    assert len({resource["service.instance.id"] for resource in there.resources}) == 2


async def test_the_span_of_a_slow_client_ends_when_it_reads(start: Services, there: Collector) -> None:
    service = start_traced(start, there)
    big = "x" * 60_000
    async with streaming(service.port, "slow", receive_buffer=4096) as slow:
        while not any("trio_sse.dropped" in found for found in attributes(there)):
            service.publish("slow", big=big, traceparent=traceparent())
            await eventually(lambda: True, "turns")
        assert not any("trio_sse.waited" in found for found in attributes(there))
        service.publish("slow", last=True)
        await slow.until(lambda event: event.name == "gap")
        await eventually(
            lambda: any("trio_sse.waited" in found for found in attributes(there)), "it took them"
        )
    waited = [span for span in there.spans if "trio_sse.waited" in values(span.attributes)]
    for span in waited:
        assert span.end_time_unix_nano > span.events[0].time_unix_nano


async def test_a_request_that_publishes_hands_its_trace_on(start: Services, there: Collector) -> None:
    service = start_traced(start, there)
    headers = {**BEARER, "traceparent": traceparent(), "tracestate": "a=b", "Idempotency-Key": "1"}
    own = traceparent(trace="1" * 32)
    body = json.dumps([{"user_id": "ann"}, {"user_id": "ann", "traceparent": own}]).encode()
    async with streaming(service.port, "ann") as stream:
        answer = service.get("/publish", method="POST", headers=headers, body=body)
        assert answer.status == 200
        assert [one["connections"]["took"] for one in answer.json["messages"]] == [1, 1]
        events = [await stream.next_but_heartbeats() for _ in range(2)]
        await eventually(lambda: len(there.spans) == 2, "both are told of")
        again = {**headers, "traceparent": traceparent(trace="2" * 32)}
        repeated = service.get("/publish", method="POST", headers=again, body=body)
        assert (repeated.status, repeated.json["repeated"]) == (200, True)
        unsampled = {**BEARER, "traceparent": traceparent(sampled=False)}
        service.get("/publish", method="POST", headers=unsampled, body=b'{"user_id":"ann"}')
        assert "traceparent" not in (await stream.next_but_heartbeats()).json
    assert [event.json["traceparent"] for event in events] == [traceparent(), own]
    assert events[0].json["tracestate"] == "a=b"
    assert {span.trace_id.hex() for span in there.spans} == {TRACE, "1" * 32}


@pytest.mark.parametrize("partitions", ["0", "4"])
async def test_messages_of_the_log_are_traced_too(
    start: Services, there: Collector, valkey: int, partitions: str
) -> None:
    service = start_traced(start, there, SSE_REDIS_STREAM="traced", SSE_STREAM_PARTITIONS=partitions)
    async with streaming(service.port, "ann"):
        body = json.dumps({"user_id": "ann", "traceparent": traceparent()}).encode()
        assert service.get("/publish", method="POST", headers=BEARER, body=body).status == 200
        await eventually(lambda: there.spans, "a span has come")
    (found,) = attributes(there)
    assert found["trio_sse.source"] == "log"
    assert found["messaging.destination.name"] == "traced"
    assert ("messaging.destination.partition.id" in found) == (partitions != "0")
    with redis.Redis(port=valkey, db=1) as client:
        client.delete("traced", *(f"traced:{{{number}}}" for number in range(4)))


async def test_what_has_not_been_told_is_told_at_the_stop(start: Services, there: Collector) -> None:
    service = start_traced(start, there)
    async with streaming(service.port, "ann") as stream:
        service.publish("ann", traceparent=traceparent())
        await stream.next_but_heartbeats()
        assert not there.spans
        assert service.stop().code == 0
    assert len(there.spans) == 1


def test_a_variable_that_cannot_be_used_ends_the_start_with_one_line(
    start: Services, there: Collector
) -> None:
    service = start_traced(start, there, ready=None, OTEL_SPAN_EVENT_COUNT_LIMIT="many")
    wait_until(lambda: not service.running, "the end")
    assert "OTEL_SPAN_EVENT_COUNT_LIMIT must be" in service.log
    assert "Traceback" not in service.log


async def test_a_collector_that_is_away_holds_nobody_up(start: Services, there: Collector) -> None:
    there.status = 503
    service = start_traced(start, there)
    async with streaming(service.port, "ann") as stream:
        for n in range(300):
            service.publish("ann", n=n, traceparent=traceparent())
        await stream.until(lambda event: event.name == "message" and event.json["n"] == 299)
        await eventually(lambda: "traces are not exported" in service.log, "it is logged")
        assert service.stop().code == 0
    assert service.log.count("traces are not exported") == 1
