"""The programs of docs/back-ends.md, run as they stand, but for ports and names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.support.client import streaming
from tests.support.process import Services
from tests.support.programs import npm_install, program
from tests.support.tools import tool

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOKEN = "first-secret-token"


def _python(directory: Path, code: str) -> list[str]:
    directory.joinpath("publish.py").write_text(code)
    return [sys.executable, "publish.py"]


def _php(directory: Path, code: str) -> list[str]:
    php = tool("php")
    modules = subprocess.run([php, "-m"], capture_output=True, text=True, check=False).stdout
    if "redis" not in modules.split():
        assert not os.environ.get("CI")
        pytest.skip("php has no extension redis")
    directory.joinpath("publish.php").write_text(code)
    return [php, "publish.php"]


def _go(directory: Path, code: str) -> list[str]:
    go = tool("go")
    directory.joinpath("main.go").write_text(code)
    for command in (["mod", "init", "example"], ["get", "github.com/redis/go-redis/v9"]):
        subprocess.run([go, *command], cwd=directory, check=True, capture_output=True)
    return [go, "run", "."]


def _js(directory: Path, code: str) -> list[str]:
    npm_install(directory, "redis")
    directory.joinpath("publish.mjs").write_text(code)
    return [tool("node"), "publish.mjs"]


def _java(directory: Path, code: str) -> list[str]:
    directory.joinpath("Publish.java").write_text(code)
    return [tool("java"), "Publish.java"]


PREPARE = {"Python": _python, "PHP": _php, "Go": _go, "Node": _js, "Java": _java}


@pytest.mark.parametrize("language", PREPARE)
async def test_what_a_back_end_publishes_arrives(
    start: Services, valkey: int, tmp_path: Path, language: str
) -> None:
    name = f"back-end-{language}"
    service = start(SSE_REDIS_CHANNEL=name, SSE_REDIS_STREAM=f"{name}-notes", SSE_PUBLISH_TOKENS=TOKEN)
    ports = {"8085": str(service.port)} if language == "Java" else {"6379": str(valkey)}
    code = program("back-ends.md", language, ports)
    code = re.sub(r'"notifications"', f'"{name}"', re.sub(r'"notes"', f'"{name}-notes"', code))
    command = PREPARE[language](tmp_path, code)
    async with streaming(service.port, target="/sse?user_id=1&topic=orders/17") as client:
        done = await trio.run_process(
            command, cwd=tmp_path, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        events = sorted([await client.event(), await client.event()], key=lambda event: event.name)
    assert [event.name for event in events] == ["message", "shipped"]
    assert events[0].json["message"] == "parcel shipped"
    assert events[1].json["parcels"] == 2
