"""What two workers count together, under load, beside what clients count."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from tests.support.client import Stream, account, eventually, streaming, streams
from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.scraped import Samples, samples, total, undeclared
from tests.support.tools import tool
from tests.support.variants import TRIO_SSE

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-16-or-more"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
USERS = [f"user{number % 20}" for number in range(60)]
MESSAGES = 300
BIG = "x" * 60_000


def scrape(service: Service) -> Samples:
    answer = service.get("/metrics", headers=BEARER)
    assert answer.status == 200
    return samples(answer.body.decode())


def start_two(start: Services, metrics_port: int = 0) -> Service:
    port = str(metrics_port)
    return start(TRIO_SSE, SSE_WORKERS="2", SSE_METRICS_TOKEN=TOKEN, SSE_METRICS_PORT=port)


async def both_ready(service: Service) -> None:
    await eventually(lambda: scrape(service)["workers",] == 2, "both workers are there", 60)


async def read(stream: Stream, until: int, seen: list[tuple[int, int, int]]) -> None:
    """Count messages, those that gaps declare, and gaps."""
    events = await stream.until(lambda event: event.name == "message" and event.json["n"] == until)
    seen.append((*account(events), sum(event.name == "gap" for event in events)))


async def test_each_counter_is_what_clients_saw(start: Services) -> None:
    service = start_two(start, free_port())
    await both_ready(service)
    seen: list[tuple[int, int, int]] = []
    everybody = sorted(set(USERS))
    async with (
        streams(service.port, USERS) as opened,
        streaming(service.port, "slow", receive_buffer=4096) as slow,
    ):
        async with trio.open_nursery() as nursery:
            for stream in opened:
                nursery.start_soon(read, stream, MESSAGES - 1, seen)
            for n in range(MESSAGES):
                service.publish(everybody, n=n)
                service.publish("slow", n=n, big=BIG)
                await trio.lowlevel.checkpoint()
        await eventually(lambda: scrape(service)["declared_total", "dropped"] > 0, "one is slow")
        assert undeclared(scrape(service)) == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, slow, MESSAGES, seen)
            await eventually(lambda: scrape(service)["owed",] == 0, "all has been taken")
            service.publish("slow", n=MESSAGES)  # until the gap was told there may be no room for it
        service.publish_raw([b"nonsense", b"{}", b'{"user_id":1,"key":1}'])
        for _ in range(3):
            assert service.get("/sse?user_id=*").status == 400
        await eventually(lambda: total(scrape(service), "bad_messages_total") == 3, "bad ones count")
        for _ in range(8):  # by different workers
            found = scrape(service)
            assert (found["streams",], found["streams_opened_total",], found["workers",]) == (61, 61, 2)
            assert found["messages_received_total", "channel"] == 2 * MESSAGES + 1
            for kind in ("not_json", "bad_target", "bad_field"):
                assert found["bad_messages_total", kind] == 1
            assert found["refused_total", "bad_request"] == 3
            assert total(found, "delivered_total") == sum(row[0] for row in seen)
            assert found["declared_total", "dropped"] == sum(row[1] for row in seen) > 0
            assert found["gaps_total", "slow_client"] == sum(row[2] for row in seen) > 0
            assert (found["owed",], undeclared(found)) == (0, 0)
            assert found["published_to_streams_total",] == 61 * MESSAGES + 1
            assert found["sent_bytes_total",] > 61 * MESSAGES * len('{"user_id":1}')
            assert found["flush_messages_sum",] == found["published_to_streams_total",]
            assert found["delivery_seconds_count", "receipt"] > 0
            assert found["redis_up",] == found["ready",] == 1
    await eventually(lambda: scrape(service)["streams",] == 0, "all have left")
    assert undeclared(scrape(service)) == 0


async def test_who_comes_back_is_published_to_once_more_and_the_balance_stays(start: Services) -> None:
    service = start(TRIO_SSE, SSE_METRICS_TOKEN=TOKEN, SSE_HISTORY_MESSAGES="50")
    async with streaming(service.port, "ann") as stream:
        for n in range(20):
            service.publish("ann", n=n, key=f"k{n % 3}")
            await stream.notification()
        first = stream.connected.id
    async with streaming(service.port, "ann", headers=[("Last-Event-ID", first)]) as stream:
        for n in range(20):
            assert (await stream.notification())["n"] == n
    found = scrape(service)
    assert (found["delivered_total", "direct"], found["delivered_total", "replayed"]) == (20, 20)
    service.publish("ann", n=20)
    for _ in range(60):
        service.publish("bob", n=0)
    await eventually(lambda: scrape(service)["messages_received_total", "channel"] == 81, "all came")
    async with streaming(service.port, "ann", headers=[("Last-Event-ID", first)]) as stream:
        assert (await stream.event()).json["reason"] == "history_expired"
    target = "/sse?user_id=ann&snapshot=true"
    async with streaming(service.port, "ann", target=target) as stream:
        assert [(await stream.notification())["n"] for _ in range(3)] == [17, 18, 19]
    found = scrape(service)
    assert (found["streams_resumed_total",], found["gaps_total", "history_expired"]) == (2, 1)
    assert (found["delivered_total", "replayed"], undeclared(found)) == (23, 0)


async def test_promtool_has_nothing_to_say_of_the_port_of_its_own(start: Services) -> None:
    port = free_port()
    service = start_two(start, port)
    await both_ready(service)
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(asked):
        asked.request("GET", "/metrics", headers=BEARER)
        text = asked.getresponse().read()
    done = await trio.run_process(
        [tool("promtool"), "check", "metrics"], stdin=text, capture_stdout=True, capture_stderr=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


async def test_a_port_that_is_taken_is_one_line_that_names_the_setting(
    start: Services, tmp_path: Path
) -> None:
    first = start(TRIO_SSE, SSE_METRICS_PORT=str(port := free_port()))
    second = start(TRIO_SSE, SSE_METRICS_PORT=str(port), ready=None)
    assert second.wait().code != 0
    assert f"cannot listen on port {port}" in second.log
    assert "SSE_METRICS_PORT" in second.log
    assert "Traceback" not in second.log
    assert first.running


def health(service: Service) -> str:
    """What the worker says that answers. Whoever asks the one that stands still has no answer."""
    asked = http.client.HTTPConnection("127.0.0.1", service.port, timeout=2)
    with contextlib.closing(asked):
        try:
            asked.request("GET", "/healthz")
            told = json.loads(asked.getresponse().read())
        except TimeoutError:
            return ""
    return str(told.get("code", told["status"]))


async def test_a_worker_that_stands_still_is_told_of_by_the_other_and_then_by_itself(start: Services) -> None:
    service = start_two(start)
    await both_ready(service)
    assert health(service) == "ok"
    os.kill(service.workers[0], signal.SIGSTOP)
    try:
        await eventually(lambda: health(service) == "worker_stuck", "the other one says so", 60)
    finally:
        os.kill(service.workers[0], signal.SIGCONT)
    await eventually(lambda: health(service) == "ok", "it turns again")
    for _ in range(4):
        await eventually(lambda: health(service) == "ok", "it turns")
