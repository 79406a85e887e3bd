"""`trio-sse publish`, `listen` and `token` as a user types them, with a real service."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Service, Services, wait_until, with_code_under_test
from tests.support.tokens import SECRET
from tests.support.valkeys import breakable
from tests.support.variants import script

pytestmark = pytest.mark.integration

STREAM: dict[str, Any] = {"SSE_REDIS_STREAM": "test-commands-log"}


def publish(service: Service, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `trio-sse publish` in the service's environment."""
    return subprocess.run(
        [script("trio-sse"), "publish", *arguments],
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=30,
        **more,
    )


class Listener:
    """`trio-sse listen`, running."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self._paths = directory / "out", directory / "err"
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as err:
            self.process = subprocess.Popen(
                [script("trio-sse"), "listen", *arguments],
                env=with_code_under_test(environment),
                stdout=out,
                stderr=err,
            )

    @property
    def out(self) -> list[str]:
        return self._paths[0].read_text().splitlines()

    @property
    def err(self) -> str:
        return self._paths[1].read_text()

    def said(self, text: str, times: int = 1) -> None:
        """Wait until it is on standard error so many times."""
        try:
            wait_until(lambda: self.err.count(text) >= times, text, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.err}") from None

    def has(self, lines: int) -> list[str]:
        """Wait for so many lines on standard output."""
        wait_until(lambda: len(self.out) >= lines, f"{lines} lines", 30)
        return self.out

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(15)


Listen = Callable[..., Listener]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    started: list[Listener] = []

    def listen(*arguments: str, **environment: str) -> Listener:
        directory = tmp_path / f"listener-{len(started)}"
        directory.mkdir()
        started.append(Listener(directory, *arguments, **environment))
        return started[-1]

    yield listen
    for listener in started:
        listener.process.kill()
        listener.process.wait()


def test_what_is_published_is_heard(start: Services, listen: Listen) -> None:
    service = start()
    readable = listen("--user", "1", "--url", service.url)
    as_json = listen("--user", "1", "--json", "--url", service.url)
    for listener in (readable, as_json):
        listener.said("-- connected; user 1")
    published = publish(service, "--user", "1", "hello")
    assert (published.returncode, published.stderr) == (0, "")
    assert published.stdout == f"to 1 subscriber of {service.channel}\n"
    publish(service, "--everybody", "--event", "shipped", "-", input='\x1b[31mred\n{"n":1}\n')
    lines = readable.has(3)
    assert '"message":"hello"' in lines[0]
    assert " shipped " in lines[1]
    assert "\x1b" not in "".join(lines)
    connected, hello, red, number = map(json.loads, as_json.has(4))
    assert connected["event"] == "connected"
    assert (hello["event"], hello["data"]["message"]) == ("message", "hello")
    assert (red["event"], red["data"]["message"]) == ("shipped", "\x1b[31mred")
    assert number["data"]["message"] == {"n": 1}
    assert readable.interrupt() == 0
    assert as_json.interrupt() == 0
    assert "Traceback" not in readable.err + as_json.err


def test_it_comes_back_and_nothing_is_missing(start: Services, listen: Listen) -> None:
    """Over a restart of the service, with the log as source."""
    service = start(**STREAM)
    listener = listen("--user", "1", "--url", service.url)
    listener.said("connected")
    published = publish(service, "--user", "1", "before")
    assert published.stdout.startswith("entry ")
    listener.has(1)
    service.stop()
    listener.said("trying again in")
    publish(service, "--user", "1", "meanwhile")
    again = start(port=service.port, **STREAM)
    listener.said("connected", 2)
    publish(again, "--user", "1", "after")
    lines = listener.has(3)
    assert [json.loads(line.partition(" ")[2])["message"] for line in lines] == [
        "before",
        "meanwhile",
        "after",
    ]
    assert "gap" not in listener.err
    assert listener.interrupt() == 0


def test_a_gap_is_shown(start: Services, listen: Listen) -> None:
    with breakable() as valkey, valkey.client() as admin:
        service = start(redis_port=valkey.port)
        listener = listen("--user", "1", "--url", service.url)
        listener.said("connected")
        admin.client_kill_filter(_type="pubsub")
        listener.said("-- gap: messages are missing here (redis_reconnected)")


def test_a_token_opens_a_stream_and_no_token_is_told(start: Services, listen: Listen, tmp_path: Path) -> None:
    service = start(SSE_AUTH="jwt", SSE_JWT_SECRET=SECRET)
    nobody = listen("--user", "ann", "--url", service.url)
    assert nobody.process.wait(15) == 1
    (line,) = nobody.err.splitlines()
    assert line.startswith(f"{service.url}/sse: HTTP 401: ")
    made = subprocess.run(
        [script("trio-sse"), "token", "--user", "ann"],
        env=service.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    (tmp_path / "token").write_text(made.stdout)
    for arguments, environment in (
        (["--token-file", str(tmp_path / "token")], {}),
        ([], {"TRIO_SSE_TOKEN": made.stdout.strip()}),
    ):
        listener = listen("--url", service.url, *arguments, **environment)
        listener.said("connected; user ann")
        assert listener.interrupt() == 0


def test_no_redis_ends_it_with_the_setting() -> None:
    ended = subprocess.run(
        [script("trio-sse"), "publish", "--user", "1", "hello"],
        env=with_code_under_test({"REDIS_URL": "redis://127.0.0.1:1"}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "REDIS_URL" in line
