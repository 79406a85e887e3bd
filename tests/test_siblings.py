"""Workers tell each other what they count."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_sse import siblings as module
from trio_sse.siblings import ANSWER_SECONDS, Counts, Siblings


class Main:
    pid = os.getpid()


@pytest.fixture(autouse=True)
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", Main)


class Worker:
    """What one counts, and how often it was asked."""

    def __init__(self, *users: str, **totals: int) -> None:
        self.users = users
        self.totals = {"published": 5, "streams": 0, **totals}
        self.asked = 0
        self.siblings = Siblings(self.count, ("published",))

    def count(self) -> Counts:
        self.asked += 1
        return Counts(len(self.users), frozenset(self.users), self.totals)


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for worker in workers:
            await nursery.start(worker.siblings.run)
        yield
        nursery.cancel_scope.cancel()


async def test_whichever_is_asked_has_the_counts_of_all() -> None:
    workers = [Worker("ann", "ann", "bob", streams=7), Worker("bob", "cyd \U0001f600"), Worker(published=6)]
    async with working(*workers):
        for worker in workers:
            counts = await worker.siblings.counts()
            assert (counts.connections, counts.workers) == (5, 3)
            assert counts.users == {"ann", "bob", "cyd \U0001f600"}
            assert counts.totals == {"published": 6, "streams": 7}


async def test_one_that_has_ended_is_left_out_and_its_name_given_again() -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first):
        async with working(second):
            assert (await first.siblings.counts()).workers == 2
        assert (await first.siblings.counts()).workers == 1
        later = Worker("cyd")
        async with working(later):
            assert later.siblings._name == second.siblings._name
            assert (await first.siblings.counts()).users == {"ann", "cyd"}


async def test_one_that_does_not_answer_is_left_out(autojump_clock: MockClock) -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first, second):
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.bind(first.siblings._name.rpartition("/")[0] + "/7")
            stuck.listen()
            began = trio.current_time()
            assert (await first.siblings.counts()).workers == 2
            assert trio.current_time() - began == pytest.approx(ANSWER_SECONDS)


async def test_a_crowd_that_asks_shares_an_answer() -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first, second), trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(first.siblings.counts)
    assert second.asked <= 2


async def test_no_answer_is_older_than_its_question() -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first, second), trio.open_nursery() as nursery:
        nursery.start_soon(first.siblings.counts)
        await wait_all_tasks_blocked()
        second.users = ("bob", "cyd")
        assert (await first.siblings.counts()).connections == 3


async def test_other_users_are_told_nothing_and_believed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first, second):
        monkeypatch.setattr(module, "_is_ours", lambda _: False)
        assert (await first.siblings.counts()).workers == 1
        async with await trio.open_unix_socket(second.siblings._name) as stream:
            assert await stream.receive_some() == b""
    assert second.asked == 0


async def test_other_users_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Worker("ann"), Worker("bob")
    async with working(first, second):
        monkeypatch.setattr(module, "_is_ours", lambda sock: not isinstance(sock, socket.socket))
        assert (await first.siblings.counts()).workers == 1


def test_who_is_at_the_other_end_is_known_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert module._is_ours(near)
        another = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: another)
        assert not module._is_ours(near)


async def test_what_is_no_answer_is_left_out() -> None:
    first = Worker("ann")

    async def babble(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"\xc1 no answer")

    async with working(first), trio.open_nursery() as nursery:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(first.siblings._name.rpartition("/")[0] + "/9")
            other.listen()
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(other))
            nursery.start_soon(partial(trio.serve_listeners, babble, [listener]))
            assert (await first.siblings.counts()).workers == 1
            nursery.cancel_scope.cancel()


async def test_in_no_worker_it_has_its_own_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    worker = Worker("ann")
    with trio.fail_after(5):
        await worker.siblings.run()
    assert (await worker.siblings.counts()).connections == 1


async def test_without_unix_sockets_it_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise OSError(97, "Address family not supported by protocol")

    worker = Worker("ann")
    monkeypatch.setattr(module, "_first_free", forbidden)
    with trio.fail_after(5), capture_logs() as logs:
        await worker.siblings.run()
    assert "/readyz" in logs[0]["event"]
    assert (await worker.siblings.counts()).connections == 1


def test_other_services_have_other_names() -> None:
    assert module._started(os.getpid()) != module._started(os.getppid())
    assert module._started(os.getpid()).count("-") == 2


async def test_whoever_is_asked_something_else_answers_that() -> None:
    first, second, third = Worker(), Worker(), Worker()
    for number, worker in enumerate((second, third)):
        worker.siblings.answers["double"] = (lambda n: lambda body: bytes([n]) + 2 * body)(number)
    async with working(first, second, third):
        answers, silent = await first.siblings.ask("double", b"ab")
        assert (sorted(answers), silent) == ([b"\0abab", b"\1abab"], set())
        answers, silent = await second.siblings.ask("double", b"ab")
        assert (sorted(answers), silent) == ([b"", b"\1abab"], set())


async def test_what_is_told_arrives_without_a_wait() -> None:
    first, second = Worker(), Worker()
    told: list[bytes] = []

    def hear(body: bytes) -> bytes:
        told.append(body)
        return b""

    second.siblings.answers["told"] = hear
    async with working(first, second):
        first.siblings.tell("told", b"x" * 100_000)
        await wait_all_tasks_blocked()
    assert told == [b"x" * 100_000]


async def test_one_that_is_there_and_does_not_turn_is_silent_since_the_first_question(
    autojump_clock: MockClock,
) -> None:
    first, second = Worker(), Worker()
    async with working(first, second):
        assert await first.siblings.silence() == 0
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.bind(first.siblings._name.rpartition("/")[0] + "/7")
            stuck.listen(0)
            assert await first.siblings.silence() == 0
            await trio.sleep(4)
            assert await first.siblings.silence() == pytest.approx(4)
            await trio.sleep(4)  # as many wait by now as may
            assert await first.siblings.silence() == pytest.approx(8)
        assert await first.siblings.silence() == 0


async def test_what_is_no_question_is_not_answered() -> None:
    worker = Worker()
    async with working(worker), await trio.open_unix_socket(worker.siblings._name) as stream:
        await stream.send_all(b"\xc1")
        await stream.send_eof()
        assert await stream.receive_some() == b""
