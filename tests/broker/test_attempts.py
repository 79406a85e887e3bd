"""Trying again: how often, what is said of it, and what is not tried again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
import redis
import trio
import trio_asyncio
from redis.exceptions import AuthenticationError
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.inside import Client, joined, new_hub, settings, until
from tests.support.ports import free_port
from tests.support.subscribing import new_subscriber, running, until_stepping
from trio_sse import embedded
from trio_sse.broker.attempts import Attempts
from trio_sse.delivery.hub import Hub


@pytest.fixture
def hub() -> Hub:
    return new_hub(clock=trio.current_time)


Serve = Callable[[], Awaitable[None]]


async def play(attempts: Attempts, *outcomes: BaseException | None) -> list[float]:
    """Attempts that end so, one after the other; None: with success, and then the link is lost. Returns the
    pauses between them."""
    times: list[float] = []
    left = list(outcomes)
    enough = asyncio.Event()

    async def serve() -> None:
        times.append(trio.current_time())
        if not left:
            enough.set()
            await asyncio.sleep(3600)
        outcome = left.pop(0)
        if outcome is None:
            attempts.success()
            raise ConnectionError("lost")
        raise outcome

    async def until_enough() -> None:
        running = asyncio.create_task(attempts.run(serve))
        ended = asyncio.create_task(enough.wait())
        await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        ended.cancel()
        if not enough.is_set():
            await running

    async with trio_asyncio.open_loop():
        await trio_asyncio.aio_as_trio(until_enough)()
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.fixture
def attempts() -> Attempts:
    return Attempts(settings(), "127.0.0.1:6379")


async def test_pauses_grow_and_are_short_again_after_a_success(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    pauses = await play(attempts, *[OSError("no")] * 12, None, OSError("no"))
    assert all(pause <= 5 for pause in pauses)
    assert sum(pauses[6:12]) > sum(pauses[:6])
    assert pauses[12] <= 0.1


async def test_whether_it_was_tried_is_told_once_whatever_came_of_it(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    told = []
    attempts.tried = lambda: told.append(attempts.succeeded)
    assert attempts.first
    await play(attempts, OSError("no"), None, OSError("no"))
    assert told == [False]
    assert not attempts.first


async def test_a_change_is_one_line_and_the_same_again_is_none(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    with capture_logs() as lines:
        await play(attempts, OSError("no"), OSError("no"), OSError("other"), None, None, OSError("lost"))
    assert [(line["event"], line["problem"].split(" (")[0]) for line in lines] == [
        ("no Redis, trying again", "Redis at 127.0.0.1:6379: no"),
        ("no Redis, trying again", "Redis at 127.0.0.1:6379: other"),
        ("lost Redis, trying again", "Redis at 127.0.0.1:6379: lost"),
        ("lost Redis, trying again", "Redis at 127.0.0.1:6379: lost"),
    ]


async def test_that_redis_is_lost_and_is_back_is_noted_once_each(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    noted: list[str] = []
    attempts.noted = lambda kind, _: noted.append(kind)
    await play(attempts, None, OSError("no"), OSError("other"), None)
    assert noted == ["redis_lost", "redis_back", "redis_lost"]
    noted.clear()
    late = Attempts(settings(), "127.0.0.1:6379")
    late.noted = lambda kind, _: noted.append(kind)
    await play(late, OSError("no"), None)
    assert noted == ["redis_lost", "redis_back", "redis_lost"]


async def test_a_refusal_has_another_code_than_no_answer(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    assert attempts.code == "redis_not_tried"
    await play(attempts, OSError("no"))
    assert attempts.code == "redis_unreachable"
    await play(attempts, AuthenticationError("no"))
    assert attempts.code == "redis_refused"
    assert "REDIS_PASSWORD" in attempts.problem


async def test_a_group_of_such_errors_is_one_and_any_other_is_raised(
    attempts: Attempts, autojump_clock: MockClock
) -> None:
    await play(attempts, ExceptionGroup("", [OSError("reader"), OSError("pinger")]))
    assert "reader" in attempts.problem
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await play(attempts, ExceptionGroup("", [OSError("reader"), ZeroDivisionError()]))
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await play(attempts, ZeroDivisionError())


async def test_a_cancellation_is_not_lost_in_an_error_that_comes_with_it(attempts: Attempts) -> None:
    """A task group prefers errors to a cancellation."""

    async def serve() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(3600))
            try:
                await asyncio.sleep(3600)
            finally:
                raise OSError("closed")

    with trio.fail_after(10):
        async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
            nursery.start_soon(trio_asyncio.aio_as_trio(attempts.run), serve)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_redis_that_comes_later_is_found(hub: Hub) -> None:
    with embedded.valkey(free_port()) as port:
        pass  # a port that is free now
    client = Client(joined(hub))
    async with running(hub, port) as subscriber:
        assert "REDIS_HOST, REDIS_PORT or REDIS_URL" in (subscriber.problem or "")
        assert f"127.0.0.1:{port}" in (subscriber.problem or "")
        with embedded.valkey(port):
            await until(lambda: subscriber.problem is None)
            await until(lambda: client.names == ["gap"])
        await until(lambda: subscriber.problem)


async def test_a_redis_that_stays_away_is_told_once(hub: Hub, mock_clock: MockClock) -> None:
    with capture_logs() as lines:
        async with running(hub, 1):
            for _ in range(20):
                mock_clock.jump(6)
                await until_stepping(mock_clock, lambda: True)
    assert [line["event"] for line in lines] == ["no Redis, trying again"]


async def test_a_mistake_of_ours_is_raised_and_not_retried(
    hub: Hub, port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "dispatch", lambda *_: 1 / 0)
    subscriber = new_subscriber(hub, port)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run)
            back_end.publish("notifications", '{"user_id":1}')
