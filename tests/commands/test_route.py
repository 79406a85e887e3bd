"""`trio-sse route` as a process, and what it makes of its options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis
import trio
from click.testing import CliRunner, Result

from tests.support.inside import Client, opened, settings, until
from tests.support.ports import free_port
from tests.support.process import with_code_under_test
from tests.support.variants import script
from trio_sse.commands.route import route
from trio_sse.delivery.flusher import flush_forever
from trio_sse.service import Service

KEY = "route-log"


def run(*arguments: str, **environment: str) -> Result:
    with mock.patch.dict(os.environ, environment):
        return CliRunner().invoke(route, arguments)


class Router:
    """`trio-sse route`, running."""

    def __init__(self, name: str, directory: Path, port: int, prefix: str, *arguments: str) -> None:
        self._err = directory / f"{name}.err"
        environment = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "SSE_REDIS_CHANNEL": prefix}
        with self._err.open("ab") as err:
            self.process = subprocess.Popen(
                [script("trio-sse"), "route", "--name", name, *arguments],
                env=with_code_under_test(environment),
                stderr=err,
                stdout=err,
            )

    @property
    def said(self) -> str:
        return self._err.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@contextmanager
def router(*arguments: Any) -> Iterator[Router]:
    found = Router(*arguments)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "http://x"], "--from: "),
        (["--from", "redis://"], "--from: "),
        (["--from-channel", "x", "--from-stream", "y"], "--from-channel and --from-stream"),
        (["--from-channel", "notifications:all"], "--from-channel: it is a channel by key itself"),
        (["--from-channel", "notifications:user:1"], "SSE_REDIS_CHANNEL"),
        (["--from", "redis://:secret@h"], "process list"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_option(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert told in result.output
    assert "secret" not in result.output
    assert "Traceback" not in result.output


def test_a_password_comes_by_the_environment() -> None:
    with mock.patch("trio_sse.commands.route.asyncio.run") as started:
        assert run(TRIO_SSE_FROM="redis://:secret@h").exit_code == 0
    (awaited,) = started.call_args.args
    awaited.close()


def test_settings_that_contradict_each_other_are_told() -> None:
    result = run(REDIS_CLUSTER="127.0.0.1:1", REDIS_SENTINELS="127.0.0.1:2")
    assert result.exit_code == 1
    assert "REDIS_CLUSTER and REDIS_SENTINELS" in result.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_routes_until_it_is_told_to_stop(valkey: int, tmp_path: Path, number: int) -> None:
    with router("a", tmp_path, valkey, "route-stop", "--from-channel", "shared-stop") as running:
        with redis.Redis(port=valkey) as back_end:
            await until(lambda: "routing" in running.said)
            back_end.publish("shared-stop", '{"user_id":1}')
            back_end.publish("shared-stop", "no json")
            await until(lambda: "message skipped" in running.said)
        assert running.end(number) == 0
        # The gap, at the beginning, is none.
        assert running.said.splitlines()[-1] == "1 published, 1 skipped"
        assert "Traceback" not in running.said


async def test_while_redis_is_away_it_says_so_once_and_stops_at_once(tmp_path: Path) -> None:
    with router("a", tmp_path, free_port(), "route-away") as running:
        await until(lambda: "REDIS_PORT" in running.said)
        assert running.end() == 0
        assert running.said.count("REDIS_PORT") == 1


async def test_one_is_killed_with_entries_that_it_had_taken_and_nobody_misses_one_or_gets_it_twice(
    valkey: int, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"redis_host": "127.0.0.1", "redis_port": valkey, "redis_channel": "route-kill"}
    arguments = ("--from-stream", KEY, "--redis-main-db", "0")
    async with trio.open_nursery() as nursery:
        service = Service(settings(**given, redis_routing="by-key"))
        await nursery.start(flush_forever, service.hub)
        await nursery.start(service.subscriber.run)
        users = [Client(opened(service, f"u{number}")) for number in range(5)]
        await until(lambda: all("connected" in one.names for one in users))
        ways = (tmp_path, valkey, "route-kill", *arguments)
        with redis.Redis(port=valkey) as back_end, router("b", *ways) as b:
            back_end.delete(KEY)
            await until(lambda: "routing" in b.said)
            sent = 0
            for turn in range(1, 4):
                with router("a", *ways) as a:
                    await until(partial(_said, a, turn))
                    pipeline = back_end.pipeline(transaction=False)
                    for number in range(sent, sent + 1_000):
                        payload = json.dumps({"user_id": [f"u{number % 5}", "other"], "n": number})
                        pipeline.xadd(KEY, {"payload": payload})
                    pipeline.execute()
                    sent += 1_000
                    await until(partial(_more_than, users, sent - 900))
                    a.process.kill()
            with router("a", *ways):
                await until(lambda: _count(users) == sent)
                await until(lambda: back_end.xpending(KEY, "trio_sse")["pending"] == 0)
                assert b.end() == 0
        numbers = [json.loads(data)["n"] for one in users for data in _messages(one)]
        assert sorted(numbers) == [*range(sent)]
        nursery.cancel_scope.cancel()


def _said(router: Router, times: int) -> bool:
    return router.said.count("routing") >= times


def _more_than(clients: list[Client], count: int) -> bool:
    return _count(clients) > count


def _messages(client: Client) -> list[str]:
    return [data for data, name in zip(client.data, client.names, strict=True) if name == "message"]


def _count(clients: list[Client]) -> int:
    return sum(len(_messages(one)) for one in clients)
