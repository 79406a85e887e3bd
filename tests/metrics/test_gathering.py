"""The numbers of all workers, whichever is asked, and of those that have ended."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest

from tests.support.inside import settings
from trio_sse.metrics import gathering
from trio_sse.metrics.gathering import Metrics
from trio_sse.metrics.report import Totals
from trio_sse.service import Service as SseService

SAME = ("messages_received:",)


class Service:
    """Workers that hear each other, as far as they are not deaf."""

    def __init__(self, *names: str) -> None:
        self.workers = {name: Worker(name, self) for name in names}


class Worker:
    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.service = service
        self.answers: dict[str, Callable[[bytes], bytes]] = {}
        self.deaf = False
        self.totals: Totals = {"published_to_streams": 0, "owed": 0, "messages_received:log": 0}
        self.gauges: Totals = {"streams": 1, "ready": 1, "log_lag_seconds": 0}
        self.metrics = Metrics(name, lambda: dict(self.totals), lambda: self.gauges, self, SAME)

    @property
    def others(self) -> list[Worker]:
        return [worker for worker in self.service.workers.values() if worker is not self and not worker.deaf]

    async def ask(self, kind: str, body: bytes = b"") -> tuple[list[bytes], set[str]]:
        return [worker.answers[kind](body) for worker in self.others], set()

    def tell(self, kind: str, body: bytes) -> None:
        for worker in self.others:
            worker.answers[kind](body)

    def count(self, published: int, owed: int = 0, received: int = 0) -> None:
        self.totals.update(published_to_streams=published, owed=owed)
        self.totals["messages_received:log"] = received

    async def published(self) -> float:
        return (await self.metrics.numbers())["published_to_streams"]


async def test_whichever_is_asked_answers_for_all() -> None:
    service = Service("a", "b", "c")
    a, b, c = service.workers.values()
    a.count(5, 1, 10)
    b.count(6, 2, 11)
    c.count(7, 0, 9)
    b.gauges.update(streams=4, ready=0, log_lag_seconds=3)
    for worker in (a, b, c):
        numbers = await worker.metrics.numbers()
        assert (numbers["published_to_streams"], numbers["owed"], numbers["workers"]) == (18, 3, 3)
        assert numbers["messages_received:log"] == 11  # each of them has each message
        assert (numbers["streams"], numbers["ready"], numbers["log_lag_seconds"]) == (6, 0, 3)


async def test_what_a_worker_counted_that_ended_stays_counted() -> None:
    service = Service("a", "b")
    a, b = service.workers.values()
    a.count(5)
    b.count(7)
    assert await a.published() == 12
    b.count(9)
    b.metrics.end()
    del service.workers["b"]
    numbers = await a.metrics.numbers()
    assert (numbers["published_to_streams"], numbers["workers"], numbers["streams"]) == (14, 1, 1)


async def test_those_who_come_later_know_of_those_who_ended_before() -> None:
    service = Service("a", "b")
    a, b = service.workers.values()
    b.count(7)
    b.metrics.end()
    del service.workers["b"]
    c = service.workers["c"] = Worker("c", service)
    a.count(5)
    a.metrics.end()
    del service.workers["a"]
    assert await c.published() == 12


async def test_of_one_that_was_killed_what_it_said_last_counts_whoever_asked() -> None:
    service = Service("a", "b", "c")
    a, b, c = service.workers.values()
    b.count(7)
    assert await a.published() == 7
    b.count(8)
    assert await c.published() == 8
    del service.workers["b"]
    assert await a.published() == 8
    assert await c.published() == 8


async def test_sums_never_fall_while_one_is_too_busy_to_answer() -> None:
    service = Service("a", "b")
    a, b = service.workers.values()
    b.count(7)
    assert await a.published() == 7
    b.deaf = True
    assert await a.published() == 7
    b.count(9)
    b.deaf = False
    assert await a.published() == 9


async def test_what_was_heard_later_is_not_replaced_by_what_others_heard_before() -> None:
    service = Service("a", "b", "c")
    a, b, c = service.workers.values()
    b.count(5)
    await a.published()
    b.totals["streams_opened"] = 3  # nothing was published meanwhile
    await c.published()
    del service.workers["b"]
    assert (await c.metrics.numbers())["streams_opened"] == 3  # though `a` knows less, and says so
    assert (await a.metrics.numbers())["streams_opened"] == 3


async def test_with_many_workers_those_that_answer_are_told_of_by_themselves_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "MOST_TOLD", 1)
    service = Service("a", "b", "c", "d")
    a, b, c, d = service.workers.values()
    for worker in (a, b, c, d):
        worker.count(1)
    d.metrics.end()
    del service.workers["d"]
    assert await a.published() == 4
    assert len(a.answers["metrics"](b"")) < 2 * len(b.answers["metrics"](b""))
    c.metrics.end()
    del service.workers["c"]
    assert await b.published() == 4


async def test_of_too_many_workers_the_ones_heard_of_long_ago_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "MOST_WORKERS", 2)
    service = Service("a", "b", "c", "d")
    a, *others = service.workers.values()
    for worker in others:
        worker.count(1)
        worker.metrics.end()
        del service.workers[worker.name]
    assert await a.published() == 2


async def test_what_is_no_answer_is_left_out() -> None:
    service = Service("a", "b")
    a, b = service.workers.values()
    b.answers["metrics"] = lambda _: b"\xc1"
    assert (await a.metrics.numbers())["workers"] == 1


async def test_its_text_is_that_of_the_numbers() -> None:
    (a,) = Service("a").workers.values()
    a.count(5)
    text, content_type = await a.metrics.text("")
    assert b"trio_sse_published_to_streams_total 5.0\n" in text
    assert content_type.startswith("text/plain")


async def test_what_a_service_reports_is_understood_by_another() -> None:
    one, other = SseService(settings()), SseService(settings())

    async def ask(kind: str, body: bytes = b"") -> tuple[list[bytes], set[str]]:
        return [other.siblings.answers[kind](body)], set()

    with mock.patch.object(one.siblings, "ask", ask):
        assert (await one.metrics.numbers())["workers"] == 2
