"""`trio-sse publish`: what it makes of its arguments, and what Redis gets."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import redis
from click.testing import CliRunner, Result
from redis.exceptions import MovedError

from tests.support.inside import settings
from tests.support.ports import free_port
from tests.support.process import with_code_under_test
from tests.support.valkeys import breakable
from tests.support.variants import script
from trio_sse.broker.link import Link
from trio_sse.broker.link import call as link_call
from trio_sse.commands import publish as module
from trio_sse.commands.publish import payload, publish

CHANNEL = "test-publish"


def run(*arguments: str, port: int = 1, stdin: str | bytes = "", **environment: str) -> Result:
    environment = {"REDIS_PORT": str(port), "SSE_REDIS_CHANNEL": CHANNEL, **environment}
    with mock.patch.dict(os.environ, environment):
        return CliRunner().invoke(publish, arguments, input=stdin)


class Subscriber:
    """What the channel has brought."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port)
        self._subscribed = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._subscribed.subscribe(CHANNEL)
        self._subscribed.get_message(timeout=5)

    def next(self, seconds: float = 5) -> Any:
        deadline = time.monotonic() + seconds
        while (message := self._subscribed.get_message(timeout=1)) is None:
            assert time.monotonic() < deadline
        return json.loads(message["data"])

    def close(self) -> None:
        self._subscribed.close()
        self.client.close()


@pytest.fixture
def subscriber(valkey: int) -> Iterator[Subscriber]:
    subscriber = Subscriber(valkey)
    yield subscriber
    subscriber.close()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("hello", '"hello"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("", '""'),
        ("17", "17"),
        ("null", "null"),
        ('{"n": 123456789012345678901}', '{"n": 123456789012345678901}'),
        ('{"n": 1', '"{\\"n\\": 1"'),
        ("NaN", '"NaN"'),
        (" [1] ", "[1]"),
        ("中文", '"中文"'),
    ],
)
def test_a_text_is_a_text_and_json_is_json_as_it_stands(text: str, value: str) -> None:
    assert payload({"user_id": 1}, text, settings()) == f'{{"user_id":1,"message":{value}}}'.encode()


@pytest.mark.parametrize("text", ["x" * 65_536, "[" * 600 + "]" * 600, "\udc80"])
def test_what_the_service_would_not_deliver_is_not_published(text: str) -> None:
    result = run("--user", "1", "--", text)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "Redis" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--user", "1"], {"user_id": 1}),
        (["--user", "007"], {"user_id": "007"}),
        (["--user", "1", "--user", "ann", "--user", "1"], {"user_id": [1, "ann"]}),
        (["--user", "9" * 20], {"user_id": "9" * 20}),
        (["--everybody"], {"user_id": "*"}),
        (["--user", "*", "--user", "1"], {"user_id": "*"}),
        (["--topic", "news"], {"topic": "news"}),
        (["--topic", "orders/17", "--topic", "news"], {"topic": ["orders/17", "news"]}),
        (
            ["--user", "1", "--topic", "news", "--event", "shipped", "--key", "price"],
            {"user_id": 1, "topic": "news", "event": "shipped", "key": "price"},
        ),
    ],
)
def test_targets_and_fields(subscriber: Subscriber, valkey: int, arguments: list[str], fields: Any) -> None:
    result = run(*arguments, "hello", port=valkey)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"to 1 subscriber of {CHANNEL}\n"
    assert subscriber.next() == {**fields, "message": "hello"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--user, --topic or --everybody"),
        (["--user", ""], "--user: it is empty"),
        (["--topic", ""], "it is empty"),
        (["--user", "x" * 129], "128"),
        (["--topic", "orders/*"], "without *"),
        (["--user", "1", "--key", ""], "--key: it is empty"),
        (["--user", "1", "--event", "two\nlines"], "--event"),
        (["--user", "1", "--event", "gap"], "service's own"),
    ],
)
def test_what_cannot_be_delivered_is_a_mistake_in_the_options(arguments: list[str], said: str) -> None:
    result = run(*arguments, "hello")
    assert result.exit_code == 2
    assert said in result.stderr


def test_nobody_there_is_a_warning(valkey: int) -> None:
    result = run("--user", "1", "hello", port=valkey)
    assert result.exit_code == 0
    assert result.stdout == f"to 0 subscribers of {CHANNEL}\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "SSE_REDIS_CHANNEL" in line


def test_partitions_get_an_entry_each_and_a_place_to_begin_is_told(valkey: int) -> None:
    parts = {"SSE_REDIS_STREAM": "test-publish-parts", "SSE_STREAM_PARTITIONS": "8"}
    result = run("--user", "42", "hello", port=valkey, **parts)
    number = zlib.crc32(b"user:42") % 8
    with redis.Redis(port=valkey, db=1) as client:
        entries: Any = client.xrange(f"test-publish-parts:{{{number}}}")
    ((entry, fields),) = entries
    assert json.loads(fields[b"payload"]) == {"user_id": 42, "message": "hello"}
    said = f"entry {entry.decode()} in test-publish-parts:{{{number}}}; last_event_id=8~{number}."
    assert result.stdout.startswith(said)
    everybody = run("--everybody", "hello", port=valkey, **parts)
    assert " and 5 more; last_event_id=8~0." in everybody.stdout


def test_a_stream_gets_an_entry_in_its_database(valkey: int) -> None:
    result = run("--user", "1", "hello", port=valkey, SSE_REDIS_STREAM="test-publish-log")
    assert (result.exit_code, result.stderr) == (0, "")
    with redis.Redis(port=valkey, db=1) as client:
        ((_, entries),) = client.xread({"test-publish-log": 0})
        client.delete("test-publish-log")
    ((entry, fields),) = entries
    assert result.stdout == f"entry {entry.decode()} in test-publish-log\n"
    assert json.loads(fields[b"payload"]) == {"user_id": 1, "message": "hello"}


def test_each_line_of_the_input_is_a_message(subscriber: Subscriber, valkey: int) -> None:
    result = run("--user", "1", "-", port=valkey, stdin='one\r\n\n{"two":2}\nthree')
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3
    assert [subscriber.next()["message"] for _ in range(3)] == ["one", {"two": 2}, "three"]


def test_json_on_several_lines_takes_an_option(subscriber: Subscriber, valkey: int) -> None:
    document = '{\n  "a": 1\n}\n'
    result = run("--user", "1", "-", port=valkey, stdin=document)
    assert result.exit_code == 1
    assert "--whole" in result.stderr
    assert run("--user", "1", "--whole", "-", port=valkey, stdin=document).exit_code == 0
    assert subscriber.next()["message"] == {"a": 1}


def test_input_that_is_no_text_is_a_line(valkey: int) -> None:
    result = run("--user", "1", "-", port=valkey, stdin=b"\xff\n")
    assert (result.exit_code, result.stderr) == (1, "the input is not UTF-8 text\n")


def test_a_line_is_published_before_the_next_one_is_there(subscriber: Subscriber, valkey: int) -> None:
    environment = {"REDIS_PORT": str(valkey), "SSE_REDIS_CHANNEL": CHANNEL}
    with subprocess.Popen(
        [script("trio-sse"), "publish", "--user", "1", "-"],
        env=with_code_under_test(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert subscriber.next(seconds=20)["message"] == "one"  # the command has to start first
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_link_that_was_idle_is_opened_anew(
    subscriber: Subscriber, valkey: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
    assert run("--user", "1", "-", port=valkey, stdin="one\ntwo").exit_code == 0
    assert [subscriber.next()["message"] for _ in range(2)] == ["one", "two"]


@pytest.mark.parametrize("host", ["127.0.0.1", "", "?"])
def test_a_stream_on_another_node_of_the_cluster_is_found_there(
    valkey: int, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A node need not know its name: then it is at the host that was asked."""
    asked: list[str] = []

    async def call(link: Link, *command: Any) -> Any:
        asked.append(link.host)
        if command[0] == "XADD" and len(asked) == 1:
            raise MovedError(f"9643 {host}:{valkey}")
        return await link_call(link, *command)

    monkeypatch.setattr(module, "call", call)
    where = {"REDIS_HOST": "localhost", "SSE_REDIS_STREAM": "test-publish-moved"}
    result = run("--user", "1", "-", port=valkey, stdin="one\ntwo", **where)
    with redis.Redis(port=valkey, db=1) as client:
        assert client.delete("test-publish-moved") == 1
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    there = "127.0.0.1" if host == "127.0.0.1" else "localhost"
    assert asked == ["localhost", there, there]


def test_no_redis_is_one_line_with_the_setting() -> None:
    result = run("--user", "1", "hello", port=free_port())
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "REDIS_HOST, REDIS_PORT or REDIS_URL" in line


def test_a_refusal_is_one_line_with_the_setting(valkey: int) -> None:
    result = run("--user", "1", "hello", port=valkey, REDIS_PASSWORD="wrong")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "REDIS_PASSWORD" in line
    with redis.Redis(port=valkey, db=1) as client:
        client.set("test-publish-no-log", "")
        result = run("--user", "1", "hello", port=valkey, SSE_REDIS_STREAM="test-publish-no-log")
        client.delete("test-publish-no-log")
    assert result.exit_code == 1
    assert "SSE_REDIS_STREAM must name a stream" in result.stderr


def test_a_replica_is_refused(valkey: int) -> None:
    with breakable() as other, other.client() as admin:
        admin.replicaof("127.0.0.1", valkey)
        result = run("--user", "1", "hello", port=other.port)
    assert result.exit_code == 1
    assert "replica" in result.stderr
