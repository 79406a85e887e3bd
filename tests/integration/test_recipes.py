"""The programs of docs/presence.md, run as they stand, but for the port and the channel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.client import streaming
from tests.support.process import Services

pytestmark = pytest.mark.integration

DOCS = Path(__file__).parents[2] / "docs" / "presence.md"


def program(language: str, port: int, channel: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert "6379" in found
    assert "notifications" in found
    return str(found).replace("6379", str(port)).replace("notifications", channel)


def knows_redis(php: str) -> bool:
    modules = subprocess.run([php, "-m"], capture_output=True, text=True, check=False).stdout
    return "redis" in modules.split()


@pytest.mark.parametrize("language", ["python", "php"])
async def test_who_is_not_there_gets_an_e_mail(
    start: Services, valkey: int, tmp_path: Path, language: str
) -> None:
    php = shutil.which("php")
    if language == "php" and (php is None or not knows_redis(php)):
        pytest.skip("no php with the extension redis on PATH")
    sent = tmp_path / "sent"
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat > {sent}\n")
    sendmail.chmod(0o755)
    channel = f"recipe-{language}"
    script = tmp_path / "program"
    script.write_text(program(language, valkey, channel))
    command = [sys.executable, str(script)]
    if language == "php":
        command = [str(php), "-d", f"sendmail_path={sendmail} -t", str(script)]
    run = partial(
        trio.run_process,
        command,
        capture_stdout=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    service = start(SSE_REDIS_CHANNEL=channel, SSE_REPLY_LISTS="replies:")
    async with streaming(service.port, "1") as client:
        assert (await run()).stdout == b"stream\n"
        assert (await client.notification())["message"] == "hello"
        assert not sent.exists()
    assert (await run()).stdout == b"e-mail\n"
    assert "one@example.com" in sent.read_text()
    assert "hello" in sent.read_text()
