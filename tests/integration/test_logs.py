"""What reaches the log of a running service, under each of the three commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import eventually, streaming
from tests.support.ports import free_port
from tests.support.process import START_SECONDS, Services, wait_until, with_code_under_test
from tests.support.tokens import SECRET, token
from tests.support.variants import COMMANDS, HYPERCORN, HYPERCORN_TRIO, Variant
from trio_sse.embedded import is_answering

pytestmark = pytest.mark.integration

MUCH_TO_TELL = f"/sse?user_id={'x' * 128}" + "".join(f"&topic={n:0100}" for n in range(7))


class Unread:
    """A service whose log goes into a pipe, which nobody reads but these tests."""

    def __init__(self, variant: Variant, valkey: int, **settings: str) -> None:
        self.port = free_port()
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        environment = {
            "SSE_HOST": "127.0.0.1",
            "SSE_PORT": str(self.port),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(valkey),
            "SSE_LOG_FORMAT": "json",
            "SSE_LOG_STREAMS": "true",
            **settings,
        }
        self.process = subprocess.Popen(
            variant.argv(self.port),
            env=with_code_under_test(environment),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
        )
        os.close(writing)
        wait_until(lambda: is_answering(self.port), "it listens", START_SECONDS)

    def ask(self, target: str) -> bytes:
        """The beginning of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return client.recv(4096)

    def read(self) -> list[Any]:
        """The lines that are there by now, whole ones."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while received := os.read(self._reading, 1 << 16):
                data += received
        return [json.loads(line) for line in data.splitlines()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._reading)


@pytest.fixture(params=COMMANDS, ids=str)
def unread(request: pytest.FixtureRequest, valkey: int) -> Iterator[Unread]:
    service = Unread(request.param, valkey)
    yield service
    service.close()


def test_a_log_that_nobody_reads_stops_nothing(unread: Unread) -> None:
    """The pipe takes 64 KiB, and what waits is 256 KiB: the lines of these streams are more."""
    count = 500
    for _ in range(count):
        assert unread.ask(MUCH_TO_TELL).startswith(b"HTTP/1.1 200")
    lines: list[Any] = []

    def told() -> bool:
        lines.extend(unread.read())
        return any("missing" in line["event"] for line in lines)

    wait_until(told, "how many lines are missing")
    ended = [line for line in lines if line["event"] == "stream ended"]
    (missing,) = [line["lines"] for line in lines if "missing" in line["event"]]
    assert len(ended) + missing == count
    assert missing > 0
    assert unread.ask("/healthz").startswith(b"HTTP/1.1 200")


def test_nor_does_it_keep_the_service_from_ending(unread: Unread) -> None:
    for _ in range(500):
        unread.ask(MUCH_TO_TELL)
    unread.process.send_signal(signal.SIGINT)
    assert unread.process.wait(START_SECONDS) == 0


CONTROL = "%1b[2J%1b]0;x%07%0d%0aFAKE%c2%9b31m%e2%80%ae%e2%81%a6%7f"
LEAKS = ("redis-passw0rd", "previous-" + SECRET, "cookie-value", "query-token", "publish-token-1", "ref-pw")

ACCESS = ("--access-logfile", "-", "--access-logformat")
ASKED = '%(h)s "%(R)s" %(s)s %(Uq)s "%(f)s" "%(a)s" %({cookie}i)s %({authorization}i)s %({sse_jwt_secret}e)s'


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
def test_no_secret_and_no_control_character_gets_there(
    start: Services, variant: Variant, log_format: str
) -> None:
    service = start(
        variant,
        *((*ACCESS, ASKED) if variant.on_hypercorn else ()),
        ready="/healthz",
        REDIS_URL="redis://ann:redis-passw0rd@127.0.0.1:1/1",  # where nobody listens
        SSE_AUTH="jwt",
        SSE_JWT_SECRET=SECRET,
        SSE_JWT_SECRET_PREVIOUS="previous-" + SECRET,
        SSE_JWT_COOKIE="tok",
        SSE_JWT_QUERY="true",
        SSE_PUBLISH_TOKENS="publish-token-1-of-two",
        SSE_LOG_FORMAT=log_format,
        SSE_LOG_STREAMS="true",
    )
    given = token(sub="\u202eann\u2066")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(f"GET /sse?access_token={given} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    headers = {
        "Cookie": "tok=cookie-value-1; other=cookie-value-2",
        "Authorization": "Bearer publish-token-1-of-two",
        "Referer": "https://ann:ref-pw@example.com/?access_token=query-token",
        "User-Agent": "\x9b31m",
    }
    for target in (
        f"/{CONTROL}",
        f"/healthz?x={CONTROL}&access_token=query-token&access%5Ftoken=query-token",
    ):
        service.get(target, headers=headers)
        service.get(f"/sse?user_id={CONTROL}&access_token={given}", headers=headers)
    if variant.on_hypercorn:
        wait_until(lambda: service.log.count("FAKE") >= 2, "the access log")
    wait_until(lambda: "stream ended" in service.log, "the line of the stream")
    log = service.log
    assert [character for character in log if character != "\n" and not character.isprintable()] == []
    assert not any(line.startswith("FAKE") for line in log.splitlines())
    for leak in (*LEAKS, SECRET, given, given.split(".")[2]):
        assert leak not in log, leak
    if log_format == "json":
        for line in log.splitlines():
            json.loads(line)


@pytest.mark.parametrize("variant", [HYPERCORN_TRIO, HYPERCORN], ids=str)
def test_hypercorn_speaks_in_the_same_format(start: Services, variant: Variant) -> None:
    service = start(variant, *ACCESS, "%(R)s %(s)s", SSE_LOG_FORMAT="json")
    service.get("/healthz?x=1")
    wait_until(lambda: "x=1" in service.log, "the access log")
    events = [json.loads(line)["event"] for line in service.log.splitlines()]
    assert len([event for event in events if event.startswith("Running on http://")]) == 1
    assert events.count("GET /healthz?x=1 1.1 200") == 1


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_stream_that_ends_is_a_line_where_asked_for(start: Services, variant: Variant) -> None:
    service = start(variant, SSE_LOG_FORMAT="json", SSE_LOG_STREAMS="true")
    silent = start(variant, SSE_LOG_FORMAT="json")
    for one in (service, silent):
        async with streaming(one.port, target="/sse?user_id=ann&topic=news") as stream:
            for n in range(3):
                one.publish("ann", n=n, message="the text of a message")
                await stream.notification()
        await eventually(lambda one=one: one.connections == 0, "it has left")  # type: ignore[misc]
    (line,) = [line for line in map(json.loads, service.log.splitlines()) if line["event"] == "stream ended"]
    assert line["user"] == "ann"
    assert line["topics"] == ["news"]
    assert line["address"] == "127.0.0.1"
    assert (line["messages"], line["dropped"], line["why"]) == (3, 0, "left")
    assert line["seconds"] > 0
    assert "stream ended" not in silent.log
    assert "the text of a message" not in service.log


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
def test_the_text_of_a_message_is_there_at_debug_alone(start: Services, variant: Variant) -> None:
    loud, usual = start(variant, SSE_LOG_LEVEL="debug"), start(variant)
    for service in (loud, usual):
        service.publish_raw([b'{"user_id":[],"message":"the text of a message"}', b"the text of a message"])
        wait_until(lambda service=service: "message skipped" in service.log, "it is skipped")  # type: ignore[misc]
    assert "the text of a message" in loud.log
    assert "the text of a message" not in usual.log
