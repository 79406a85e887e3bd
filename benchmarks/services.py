"""Each service as a command, an environment and a readiness URL; how it is started and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from machine import pinned, tree
from redis_server import RedisServer, free_port

HERE = Path(__file__).resolve().parent
START_SECONDS = 20
STOP_SECONDS = 8


@dataclass(frozen=True)
class Place:
    """What a command needs to know. `heartbeat`: seconds. `files`: the limit of open files."""

    port: int
    redis_port: int
    folder: Path
    files: int
    heartbeat: int


@dataclass(frozen=True)
class Service:
    """One thing to measure.

    `command` makes the argument list; `missing` gives the reason why it cannot run here, or "".
    `stats`: it has /stats with its count of dropped messages. `about`: a path whose answer names a version.
    `mark` is the text that tells a client that its stream is open. `publish` is "redis" or "nchan".
    """

    name: str
    title: str
    command: Callable[[Place], list[str]]
    missing: Callable[[], str]
    ready: str = "/readyz"
    mark: str = "connected"
    publish: str = "redis"
    peer: bool = False
    workers: int = 1
    stats: bool = False
    about: str = ""
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A started service. `shown` is its command line without folders of this machine."""

    service: Service
    pid: int
    port: int
    shown: str

    def about(self) -> str:
        """The line with the version, for a peer whose version no command tells."""
        if not self.service.about:
            return ""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}{self.service.about}", timeout=10
        ) as answer:
            lines = answer.read().decode().splitlines()
        return next((line for line in lines if "version" in line), "")

    def dropped(self) -> int | None:
        """How many messages the service itself counted as dropped, for peers that tell."""
        if not self.service.stats:
            return None
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as answer:
            return int(re.search(rb"\d+", answer.read())[0])  # type: ignore[index]


def shown(words: list[str], folder: Path, env: dict[str, str]) -> str:
    """A command line as a reader would type it: no folders of this machine."""
    plain = [
        Path(w).name if w == words[0] else w.replace(str(folder), "TMP").replace(str(HERE), "benchmarks")
        for w in words
    ]
    plain[0] = "python" if words[0] == sys.executable else plain[0]
    return " ".join([*(f"{k}={v}" for k, v in env.items()), *plain])


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise RuntimeError(f"not ready after {START_SECONDS} s: " + " | ".join(last))


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process by SIGTERM, then by SIGKILL what is left of its tree."""
    family = tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    parents = {p for p in family if p != process.pid and Path(f"/proc/{p}").exists()}
    if process.poll() is None:
        process.kill()
        process.wait()
    time.sleep(0.2 if parents else 0)
    for pid in parents:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(
    service: Service,
    redis: RedisServer,
    folder: Path,
    files: int,
    cores: set[int] | None,
    heartbeat: int = 30,
    extra: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Start the service and wait until its readiness URL answers 200; stop it at the end.

    A service of several workers is not pinned: one core would show nothing of the second worker.
    Raises RuntimeError with the last lines of its log if it does not become ready.
    """
    place = Place(free_port(), redis.port, folder, files, heartbeat)
    settings = {"REDIS_PORT": str(place.redis_port), "SSE_PORT": str(place.port)}
    if not service.peer:
        settings |= {"SSE_HOST": "127.0.0.1", "REDIS_HOST": "127.0.0.1", **(extra or {})}
    if heartbeat != 30:
        settings["SSE_HEARTBEAT_SECONDS"] = str(heartbeat)
    settings |= service.env
    if service.publish != "redis":
        settings = {}
    words = service.command(place)
    log = folder / f"{service.name}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=os.environ | settings,
            preexec_fn=pinned(cores if service.workers == 1 else None),
        )
    try:
        _wait_ready(f"http://127.0.0.1:{place.port}{service.ready}", process, log)
        end = time.monotonic() + 3  # every worker subscribes; give the last one time
        while service.publish == "redis" and redis.subscribers() < service.workers and time.monotonic() < end:
            time.sleep(0.05)
        yield Running(service, process.pid, place.port, shown(words, folder, settings))
    finally:
        stop(process)
