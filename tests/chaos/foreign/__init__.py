"""Clients that nobody here wrote, each kind in a process that prints what they see, a line for each event."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.chaos.bench import Bench, LeftOutError
from tests.chaos.client import RefusedError
from tests.chaos.keys import query
from tests.chaos.witness import Witness

HERE = Path(__file__).parent
NODE = {"eventsource": "eventsource.mjs", "eventsource-parser": "parser.mjs"}
PACKAGES = ("eventsource@4.1.1", "eventsource-parser@3.1.1")
END_SECONDS = 10


async def start(bench: Bench, kind: str, port: int) -> list[Witness]:
    """One client of this kind for each user. Returns when all are connected. Raises LeftOutError."""
    host = "{}.test" if kind == "chromium" else "127.0.0.1"
    follows = [bench.follows(user) for user in bench.users]
    urls = [f"http://{host.format(keys[0])}:{port}/sse?{query(keys)}" for keys in follows]
    command = _chromium() if kind == "chromium" else await _node(bench.directory, NODE[kind])
    witnesses = [Witness(keys) for keys in follows]
    bench.nursery.start_soon(
        _listen, [*command, json.dumps(urls)], bench.directory / "foreign.log", witnesses
    )
    for witness in witnesses:
        await witness.connected.wait()
    bench.clients += witnesses
    return witnesses


def _chromium() -> list[str]:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return [sys.executable, str(HERE / "chromium.py"), path]
    raise LeftOutError("needs Chromium")


async def _node(directory: Path, script: str) -> list[str]:
    """Node, with the packages in a directory beside the script."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise LeftOutError("needs node and npm")
    for source in HERE.glob("*.*js"):
        shutil.copy(source, directory)
    command = [npm, "install", "--prefix", str(directory), "--no-save", "--no-audit", "--no-fund", *PACKAGES]
    done = await trio.run_process(
        command, cwd=directory, capture_stderr=True, capture_stdout=True, check=False
    )
    if done.returncode:
        raise LeftOutError(f"npm install failed: {done.stderr.decode().partition(chr(10))[0]}")
    return [node, str(directory / script)]


async def _listen(command: Sequence[str], log: Path, witnesses: Sequence[Witness]) -> None:
    """Let the process tell the witnesses what they see, until cancelled. It ends when its stdin is closed."""
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for number, name, text, last_id in map(json.loads, lines):
                if name == "closed":
                    raise RefusedError(f"the client of {witnesses[number].follows} has given up")
                witnesses[number].see(name, text, last_id)
        raise RuntimeError(f"the clients have ended:\n{await trio.Path(log).read_text()}")
    finally:
        with trio.move_on_after(END_SECONDS, shield=True):
            await process.stdin.aclose()
            await process.wait()
        if process.returncode is None:
            process.kill()
