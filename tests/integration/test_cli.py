"""The trio-sse command, and what a user is told who got something wrong."""

from __future__ import annotations

import socket
import subprocess

import pytest
import trio

from tests.support.client import streaming
from tests.support.ports import free_port
from tests.support.process import Services, with_code_under_test
from tests.support.variants import COMMANDS, TRIO_SSE, Variant, script
from trio_sse.embedded import is_answering

pytestmark = pytest.mark.integration


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run trio-sse to its end."""
    return subprocess.run(
        [script("trio-sse"), *arguments],
        env=with_code_under_test({"SSE_HOST": "127.0.0.1", **settings}),
        capture_output=True,
        text=True,
        timeout=30,
    )


async def test_the_embedded_valkey_comes_and_goes_with_the_service(start: Services) -> None:
    port = free_port()
    service = start(redis_port=port, REDIS_HOST=None, SSE_REDIS_CHANNEL=None)
    assert f"redis-cli -p {port} PUBLISH notifications" in service.log
    async with streaming(service.port) as stream:
        # The line for those without redis-cli, as printed.
        (line,) = [line for line in service.log.splitlines() if "import json, redis" in line]
        await trio.run_process(["sh", "-c", line])
        assert (await stream.notification())["message"] == "hello"
    assert service.stop().code == 0
    assert not is_answering(port), "no Valkey is left"


@pytest.mark.parametrize("setting", ["REDIS_HOST", "REDIS_URL"])
def test_no_embedded_valkey_where_a_redis_is_configured(start: Services, setting: str) -> None:
    port = free_port()
    value = "127.0.0.1" if setting == "REDIS_HOST" else f"redis://127.0.0.1:{port}"
    other: dict[str, None] = {} if setting == "REDIS_HOST" else {"REDIS_HOST": None}
    service = start(TRIO_SSE, **{"redis_port": port, "ready": "/healthz", setting: value, **other})  # type: ignore[arg-type]
    assert setting in service.log
    assert "redis_unreachable" in service.get("/readyz").json["detail"]
    assert not is_answering(port)


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(SSE_PORT=str(port), REDIS_HOST="127.0.0.1")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "SSE_PORT" in line


def test_wrong_settings_are_a_line_each() -> None:
    ended = run(SSE_PORT="eighty", SSE_BUFFER="0", REDIS_URL="http://user:secret@x")
    assert ended.returncode == 1
    assert [line.split("=")[0] for line in ended.stderr.splitlines()] == [
        "SSE_PORT",
        "SSE_BUFFER",
        "REDIS_URL",
    ]
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
def test_wrong_settings_end_every_command(start: Services, variant: Variant) -> None:
    service = start(variant, ready=None, SSE_HEARTBEAT_SECONDS="never")
    service.traceback_expected = variant.on_hypercorn  # it raises what it was told, and ends with code 0
    stopped = service.wait()
    assert stopped.code == 1 or variant.on_hypercorn
    assert "SSE_HEARTBEAT_SECONDS='never' is not accepted" in service.log


def test_check_finds_all_well(valkey: int) -> None:
    ended = run("check", SSE_PORT=str(free_port()), REDIS_HOST="127.0.0.1", REDIS_PORT=str(valkey))
    assert ended.returncode == 0, ended.stdout
    assert all(line.startswith("ok") for line in ended.stdout.splitlines())
    assert "came back" in ended.stdout


def test_check_names_what_is_wrong() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: nobody has to wait for an answer
        port = str(taken.getsockname()[1])
        ended = run("check", SSE_PORT=port, REDIS_HOST="127.0.0.1", REDIS_PORT=str(free_port()))
    assert ended.returncode == 1
    wrong = [line for line in ended.stdout.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2, ended.stdout
    assert "SSE_PORT" in wrong[0]
    assert "REDIS_HOST" in wrong[1]


def test_check_beside_a_running_service(start: Services, valkey: int) -> None:
    service = start()
    ended = run("check", SSE_PORT=str(service.port), REDIS_HOST="127.0.0.1", REDIS_PORT=str(valkey))
    assert ended.returncode == 0, ended.stdout
    assert "says: ready" in ended.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("trio-sse, version")
