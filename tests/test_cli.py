"""The `trio-sse` command: what it prints, what it refuses, and that it serves."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import hypercorn.run
import pytest
import redis
from click.testing import CliRunner, Result
from hypercorn.config import Config

from tests.support.inside import PATIENCE_SECONDS, process_kept, settings
from tests.support.ports import free_port
from tests.support.valkeys import certificate
from trio_sse import __version__, cli, embedded
from trio_sse.settings import Settings, env_name


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """The command writes the environment: that of the tests stays as it was, and has no settings of ours."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SSE_", "REDIS_"))}
    with mock.patch.dict(os.environ, clean, clear=True), process_kept():
        yield


def run(*arguments: str, **environment: str) -> Result:
    os.environ.update(environment)
    return CliRunner().invoke(cli.main, arguments)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `serve` would have served with; nothing is served."""
    given: list[Settings] = []

    def serve(settings: Settings, listener: socket.socket) -> int:
        given.append(settings)
        return 0

    monkeypatch.setattr(cli, "_serve", serve)
    os.environ.update(REDIS_HOST="127.0.0.1", SSE_HOST="127.0.0.1", SSE_PORT="0")
    return given


def close_listener(config: Config) -> None:
    """What a server does with the socket it is given."""
    (bind,) = config.bind
    os.close(int(bind.removeprefix("fd://")))


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_the_commands(flag: str) -> None:
    result = run(flag)
    assert result.exit_code == 0
    assert "serve" in result.output
    assert "check" in result.output


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_of_a_command_names_every_setting_but_the_secrets(command: str) -> None:
    output = " ".join(run(command, "--help").output.split())
    for field in Settings.model_fields:
        secret = "password" in field or field in ("jwt_secret", "jwt_secret_previous", "publish_tokens")
        assert bool(re.search(rf"--{field.replace('_', '-')}[ ,]", output)) is not secret
        assert (f"[{env_name(field)}," in output) is not secret
    assert "[SSE_PORT, default 8085]" in output
    assert "[SSE_CORS_ORIGINS, default *]" in output


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert __version__ in result.output


@pytest.mark.parametrize("arguments", [[], ["serve"], ["--log-level", "error"], ["--log-level=error"]])
def test_without_a_command_it_serves(loaded: list[Settings], arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 0
    assert len(loaded) == 1


def test_a_command_that_is_not_there_is_refused(loaded: list[Settings]) -> None:
    assert run("sreve").exit_code == 2
    assert run("--sreve").exit_code == 2
    assert loaded == []


def test_options_come_before_the_environment_and_reach_the_workers(loaded: list[Settings]) -> None:
    run("serve", "--redis-channel", "option", "--buffer", "5", SSE_REDIS_CHANNEL="environment")
    assert (loaded[0].redis_channel, loaded[0].buffer) == ("option", 5)
    assert os.environ["SSE_REDIS_CHANNEL"] == "option"
    assert os.environ["SSE_BUFFER"] == "5"


def test_a_secret_is_no_option_but_its_file_is(loaded: list[Settings], tmp_path: Path) -> None:
    assert run("--redis-password", "s3cret").exit_code == 2
    assert "[REDIS_PASSWORD_FILE]" in run("serve", "--help").output
    assert "REDIS_PASSWORD_FILE" in run("--help").output
    (tmp_path / "file").write_text("s3cret\n")
    run("--redis-password-file", str(tmp_path / "file"), REDIS_PASSWORD="other")
    assert loaded[0].redis_password is not None
    assert loaded[0].redis_password.get_secret_value() == "s3cret"
    assert "REDIS_PASSWORD" not in os.environ  # so that the workers read the same


def test_an_option_comes_before_the_file_of_its_setting(loaded: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("redis://file")
    del os.environ["REDIS_HOST"]
    run("--redis-url", "redis://option", REDIS_URL_FILE=str(tmp_path / "file"))
    assert loaded[0].redis_address == "option:6379"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_wrong_settings_end_it_with_a_line_for_each(command: str) -> None:
    result = run(command, "--port", "x", SSE_BUFFER="y", REDIS_URL="s3cret")
    assert result.exit_code == 1
    assert [line.split("=")[0] for line in result.stderr.splitlines()] == [
        "SSE_PORT",
        "SSE_BUFFER",
        "REDIS_URL",
    ]
    assert "s3cret" not in result.output


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("url", ["redis://:s3cret@127.0.0.1", "redis://127.0.0.1?password=s3cret"])
def test_a_password_in_the_process_list_is_refused(command: str, url: str) -> None:
    result = run(command, "--redis-url", url)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "REDIS_URL" in line
    assert "s3cret" not in line


def test_an_address_without_a_password_may_be_an_option(loaded: list[Settings]) -> None:
    del os.environ["REDIS_HOST"]
    assert run("--redis-url", "redis://ann@127.0.0.1:7000/3").exit_code == 0
    assert loaded[0].redis_address == "127.0.0.1:7000"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_key_that_is_none_ends_it_with_a_line(command: str, tmp_path: Path) -> None:
    result = run(command, "--auth", "jwt", "--jwt-public-key-file", str(tmp_path / "none.pem"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("SSE_JWT_PUBLIC_KEY_FILE=")


def test_a_certificate_is_given_to_the_server(
    loaded: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    cert, key = certificate(tmp_path)
    seen: list[Config] = []

    async def served(_: Any, config: Config, **__: Any) -> None:
        close_listener(config)
        seen.append(config)

    monkeypatch.setattr("hypercorn.trio.serve", served)
    result = run(
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--tls-cert",
        str(cert),
        "--tls-key",
        str(key),
        REDIS_HOST="127.0.0.1",
    )
    assert result.exit_code == 0
    assert seen[0].ssl_enabled
    assert seen[0].create_ssl_context() is not None
    assert seen[0].ssl_handshake_timeout == 10


def test_a_port_that_is_taken_names_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--host", "127.0.0.1", "--port", str(port), REDIS_HOST="127.0.0.1")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith("(SSE_HOST, SSE_PORT)")


def test_a_host_that_is_not_ours_names_the_setting() -> None:
    result = run("--host", "192.0.2.1", "--port", "0", REDIS_HOST="127.0.0.1")
    assert result.exit_code == 1
    assert "SSE_HOST" in result.stderr


def test_an_embedded_valkey_that_does_not_start_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(embedded, "is_answering", lambda _port: False)
        result = run("--redis-port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "REDIS_HOST or REDIS_URL" in result.stderr


def test_with_no_redis_an_embedded_one_is_started_and_told_how_to_use(
    loaded: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering: list[bool] = []
    port = free_port()

    def serve(*_: Any) -> int:
        answering.append(embedded.is_answering(port))
        return 0

    monkeypatch.setattr(cli, "_serve", serve)
    del os.environ["REDIS_HOST"]
    result = run("--redis-port", str(port), "--redis-channel", "my news")
    assert result.exit_code == 0
    assert answering == [True]
    assert f"redis-cli -p {port} PUBLISH 'my news' " in result.stderr
    assert not embedded.is_answering(port)


def test_of_partitions_what_is_shown_adds_to_that_of_its_user(valkey: int) -> None:
    parts = settings(redis_stream="it's shown", stream_partitions=8, redis_main_db=3)
    command, python = cli._how_to_send(parts, valkey)
    with redis.Redis(port=valkey, db=3) as client:
        _, database, *words = shlex.split(command)
        assert database == "3"
        cast(Any, client).execute_command(*words)
        exec(f"import json, redis; redis.Redis{python}", {})
        entries: Any = client.xrange(f"it's shown:{{{zlib.crc32(b'user:1') % 8}}}")
    said = [fields[b"payload"] for _, fields in entries]
    assert [json.loads(payload) for payload in said] == [{"user_id": 1, "message": "hello"}] * 2


@pytest.mark.parametrize("named", ["REDIS_HOST", "REDIS_URL"])
def test_a_redis_that_was_named_is_never_replaced(loaded: list[Settings], named: str) -> None:
    del os.environ["REDIS_HOST"]
    port = free_port()
    result = run("--redis-port", str(port), **{named: f"redis://127.0.0.1:{port}" if "URL" in named else "x"})
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_redis_that_is_there_is_used(loaded: list[Settings], valkey: int) -> None:
    del os.environ["REDIS_HOST"]
    result = run("--redis-port", str(valkey))
    assert (result.exit_code, result.stderr) == (0, "")


def test_check_ends_with_1_when_something_is_to_be_mended(valkey: int) -> None:
    well = ("check", "--host", "127.0.0.1", "--port", "0", "--redis-host", "127.0.0.1", "--redis-port")
    assert run(*well, str(valkey)).exit_code == 0
    assert run(*well, "1").exit_code == 1


@pytest.fixture
def _signals_do_not_end_the_tests() -> Iterator[None]:
    """Nor does a service that misses its signal hold them up for ever."""

    def too_long(*_: Any) -> None:
        raise TimeoutError("the service did not end")

    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(3 * PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    for number, handler in before.items():
        signal.signal(number, handler)


def while_serving(port: int, act: Callable[[], None]) -> threading.Thread:
    """Call `act` from another thread as soon as the service on `port` answers."""

    def wait_and_act() -> None:
        for _ in range(100 * PATIENCE_SECONDS):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                break
            except OSError:
                time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@pytest.mark.usefixtures("_signals_do_not_end_the_tests")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(number: int, valkey: int) -> None:
    port = free_port()
    thread = while_serving(port, lambda: os.kill(os.getpid(), number))
    result = run("--host", "127.0.0.1", "--port", str(port), "--redis-port", str(valkey))
    thread.join()
    assert result.exit_code == 0
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.usefixtures("_signals_do_not_end_the_tests")
def test_a_crash_of_the_service_ends_it_with_1(valkey: int, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()

    def fail(*_: Any) -> float:
        raise ZeroDivisionError

    thread = while_serving(port, lambda: monkeypatch.setattr("trio_sse.delivery.hub.Hub.beat", fail))
    result = run(
        *("--host", "127.0.0.1", "--port", str(port), "--redis-port", str(valkey)),
        *("--heartbeat-seconds", "0.05"),
    )
    thread.join()
    assert result.exit_code == 1


def test_an_error_of_the_server_that_is_no_crash_of_ours_is_raised(
    loaded: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    async def broken(_: Any, config: Config, **__: Any) -> None:
        close_listener(config)
        raise ZeroDivisionError

    monkeypatch.setattr("hypercorn.trio.serve", broken)
    result = run("--host", "127.0.0.1", "--port", "0", REDIS_HOST="127.0.0.1")
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(("codes", "code"), [([0, 0], 0), ([0, 3], 1), ([3, 0], 1)])
def test_a_worker_that_failed_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], code: int
) -> None:
    left = iter(codes)
    seen: list[Any] = []

    def run_workers(config: Config) -> int:
        close_listener(config)
        seen.append((config.workers, config.application_path, config.worker_class))
        for _ in codes:
            hypercorn.run._join_exited([])  # as it does while it waits for its workers
        return 0

    monkeypatch.setattr(hypercorn.run, "_join_exited", lambda _processes: next(left))
    monkeypatch.setattr(hypercorn.run, "run", run_workers)
    result = run("--workers", "2", "--host", "127.0.0.1", "--port", "0", REDIS_HOST="127.0.0.1")
    assert seen == [(2, "trio_sse.asgi:worker", "trio")]
    assert result.exit_code == code


def test_a_host_that_is_no_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    result = CliRunner().invoke(cli.main, ["--host", "a..b"])
    assert result.exit_code == 1
    assert "SSE_HOST" in result.stderr
