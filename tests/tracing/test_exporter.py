"""How traces get to a collector, and what becomes of them when they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from tests.support.collector import Collector, collector, traceparent
from tests.support.inside import turns_of_others, until
from tests.support.secure import files, server_context
from trio_sse.counters import Counters
from trio_sse.delivery.traces import Context, Trace, Traces
from trio_sse.tracing import exporter
from trio_sse.tracing.collector import MAX_ANSWER_BYTES, configured
from trio_sse.tracing.exporter import Exporter, _retry_after
from trio_sse.tracing.spans import Spans


@pytest.fixture
def there() -> Iterator[Collector]:
    with collector() as taking:
        yield taking


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(exporter, "PAUSES", (0.01,))


class Running:
    """An exporter, and what it exports."""

    def __init__(self, url: str, **more: str) -> None:
        self.counters = Counters()
        self.traces = Traces(1000, self.counters)
        there = configured({"OTEL_EXPORTER_OTLP_ENDPOINT": url, **more})
        self.exporter = Exporter(self.traces, self.counters, Spans("p", "notes"), there)

    @property
    def counts(self) -> dict[str, int]:
        return {name: count for name, count in self.counters.traces.items() if count}

    def end(self, count: int = 1, *, sampled: bool = True) -> None:
        """So many traces end."""
        for _ in range(count):
            trace = Trace(Context(traceparent(sampled=sampled)), 1, 1, self.traces)
            trace.offered = trace.ended = 2
            self.traces.ended(trace)


@asynccontextmanager
async def running(there: Collector | str, **more: str) -> AsyncIterator[Running]:
    made = Running(there if isinstance(there, str) else there.url, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.exporter.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_they_are_sent_together(there: Collector) -> None:
    async with running(there) as own:
        own.end(20)
        await until(lambda: len(there.spans) == 20)
        assert len(there.requests) == 1
        own.end(1)
        await until(lambda: len(there.spans) == 21)
    assert own.counts == {"exported": 21}
    assert there.paths == {"/v1/traces"}


async def test_a_collector_may_have_a_private_authority() -> None:
    with collector(server_context()) as there:
        url = f"https://127.0.0.1:{there.port}"
        async with running(url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(files()[0])) as own:
            own.end(1)
            await until(lambda: there.spans)


async def test_others_run_while_spans_are_made(there: Collector) -> None:
    made = Running(there.url)
    made.end(80)
    async with turns_of_others() as turns:
        await made.exporter._next()
    assert turns.count >= 8


async def test_a_request_has_so_many_at_most(there: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "BATCH", 16)
    async with running(there) as own:
        own.end(40)
        await until(lambda: len(there.spans) == 40)
        assert len(there.requests) == 3


async def test_what_the_sampler_does_not_want_is_left_out(there: Collector) -> None:
    async with running(there) as own:
        own.end(10, sampled=False)
        await until(lambda: own.counts.get("left_out") == 10)
        own.end(1)
        await until(lambda: there.spans)
        assert len(there.requests) == 1
    assert own.counts == {"left_out": 10, "exported": 1}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_collector_that_is_away_is_asked_again(there: Collector, status: int) -> None:
    there.status = status
    with capture_logs() as logs:
        async with running(there) as own:
            own.end(3)
            await until(lambda: len(there.requests) >= 3)
            own.end(3)
            there.status = 200
            await until(lambda: len(there.spans) == 6)
    assert own.counts == {"exported": 6}
    told = [(line["event"], line.get("problem")) for line in logs]
    problem = f"the answer is {status}"
    assert told == [("traces are not exported", problem), ("traces are exported again", None)]


async def test_one_that_is_not_there_at_all_is_asked_again() -> None:
    with collector() as there:
        pass
    with capture_logs() as logs:
        async with running(there) as own:
            own.end(1)
            await until(lambda: logs)
            assert own.counts == {}
    assert own.counts == {"lost": 1}
    assert [line["event"] for line in logs] == ["traces are not exported", "traces are lost"]


async def test_whatever_its_name_is_the_service_goes_on() -> None:
    with capture_logs() as logs:
        async with running("http://a..b:4318") as own:
            own.end(1)
            await until(lambda: logs)
    assert "label" in logs[0]["problem"]


async def test_an_answer_has_an_end_in_time_and_in_size(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.refuse_some(3, "x" * MAX_ANSWER_BYTES)
    there.more = {"Content-Length": "1000000000"}
    async with running(there) as own:
        own.end(3)
        await until(lambda: own.counts == {"exported": 3})
    monkeypatch.setattr(exporter, "ANSWER_SECONDS", 0.0)
    with capture_logs() as logs:
        async with running(there) as own:
            own.end(3)
            await until(lambda: logs)
    assert logs[0]["problem"] == "no whole answer within 0 s"


async def test_the_log_has_no_secrets_of_the_address(there: Collector) -> None:
    there.status = 400
    with capture_logs() as logs:
        async with running(f"http://user:secret@127.0.0.1:{there.port}?key=secret") as own:
            own.end(1)
            await until(lambda: logs)
    assert logs[0]["collector"] == f"{there.url}/v1/traces"


async def test_it_says_itself_when_to_ask_again(there: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    there.status, there.more = 429, {"Retry-After": "120"}
    made = Running(there.url)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds > 1:
            there.status = 200

    monkeypatch.setattr(trio, "sleep", sleep)
    made.end()
    assert await made.exporter._next()
    async with made.exporter._collector.client() as client:
        await made.exporter._send_until_taken(client)
    assert slept == [120.0]
    assert made.counts == {"exported": 1}


async def test_pauses_grow_and_are_not_the_same_for_all(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.status = 503
    made = Running(there.url)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            there.status = 200

    monkeypatch.setattr(trio, "sleep", sleep)
    monkeypatch.setattr(exporter, "PAUSES", (8.0, 16.0))
    made.end()
    assert await made.exporter._next()
    async with made.exporter._collector.client() as client:
        await made.exporter._send_until_taken(client)
    assert 4 <= slept[0] <= 8 <= slept[1] <= 16
    assert 8 <= slept[2] <= 16
    assert slept != [8, 16, 16]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("120", 120),
        ("99999", 300),
        ("100000", 0),
        ("1.5", 0),
        ("nan", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0),
        ("", 0),
    ],
)
def test_it_may_name_whole_seconds_and_not_too_many(given: str, seconds: int) -> None:
    assert _retry_after(httpx.Response(429, headers={"Retry-After": given})) == seconds


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_what_it_does_not_want_is_lost_and_counted(there: Collector, status: int) -> None:
    there.status = status
    with capture_logs() as logs:
        async with running(there) as own:
            own.end(3)
            await until(lambda: own.counts == {"lost": 3})
            there.status = 200
            own.end(1)
            await until(lambda: there.spans)
    assert own.counts == {"lost": 3, "exported": 1}
    assert (logs[0]["problem"], logs[1]["lost"]) == (f"the answer is {status}", 3)


@pytest.mark.parametrize(("said", "counted"), [(7, {"lost": 5}), (-2, {"exported": 5})])
async def test_it_cannot_refuse_more_than_it_got(
    there: Collector, said: int, counted: dict[str, int]
) -> None:
    there.refuse_some(said, "")
    async with running(there) as own:
        own.end(5)
        await until(lambda: bool(own.counts))
    assert own.counts == counted


async def test_it_may_refuse_some(there: Collector) -> None:
    there.refuse_some(2, "too old")
    with capture_logs() as logs:
        async with running(there) as own:
            own.end(5)
            await until(lambda: own.counts == {"exported": 3, "lost": 2})
    assert logs[0]["problem"] == "too old"


async def test_a_span_that_cannot_be_made_is_lost_and_ends_nothing(there: Collector) -> None:
    with capture_logs() as logs:
        async with running(there) as own:
            broken = Trace(Context(traceparent()), 1, -1, own.traces)  # a clock from before 1970
            own.traces.ended(broken)
            await until(lambda: own.counts == {"lost": 1})
            own.end()
            await until(lambda: there.spans)
    assert logs[0]["problem"].startswith("a span cannot be made: ")
    assert own.counts == {"lost": 1, "exported": 1}


async def test_when_the_service_stops_what_there_is_is_sent_once_more(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "GATHER_SECONDS", 1000.0)
    async with running(there) as own:
        own.end(10)
        await trio.testing.wait_all_tasks_blocked()
        own.end(20)
    assert (own.counts, len(there.spans), len(there.requests)) == ({"exported": 30}, 30, 1)
    there.status = 503
    async with running(there) as own:
        own.end(30)
    assert own.counts == {"lost": 30}


async def test_the_stop_waits_for_no_collector_for_long(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "LAST_SECONDS", 0.0)
    async with running(there) as own:
        own.end(30)
    assert own.counts == {"lost": 30}
