"""Each service as a command, an environment and a readiness URL; how it is started and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from builds import CACHE, HERE
from machine import pinned, tree
from redis_server import RedisServer, free_port

START_SECONDS = 20
STOP_SECONDS = 8
HISTORY_BYTES = 2**28  # more than any work keeps


@dataclass(frozen=True)
class Mode:
    """What a work asks of a service beside its defaults.

    `heartbeat`: seconds. `drain`: whether it may take its time to end streams when it stops. `tls`: PEM files
    of certificate and key. `secret`: what the tokens of clients are signed with. `history`: messages to keep
    for clients that come back, in all.
    """

    heartbeat: int = 30
    drain: bool = True
    tls: tuple[Path, Path] | None = None
    secret: str = ""
    history: int = 0


@dataclass(frozen=True)
class Place:
    """What a command needs to know.

    `inner`: the port for publishing and readiness, never over TLS, of a service that is published to itself;
    the same as `port` without TLS. `files`: the limit of open files.
    """

    port: int
    inner: int
    redis_port: int
    folder: Path
    files: int
    mode: Mode


@dataclass(frozen=True)
class Client:
    """What a client of the service sends and sees, in the words of load.c.

    `mark` tells that its stream is open. `id` comes before the id to resume from, `epoch` before the rest of
    it; with `resume` in place of the path it is sent there, else as Last-Event-ID.
    """

    path: str = "/sse?user_id={user}{topics}"
    token_path: str = "/sse"
    token_header: str = "Authorization: Bearer {token}"
    mark: str = "connected"
    id: str = "\nid: "
    epoch: str = ""
    resume: str = ""


@dataclass(frozen=True)
class Service:
    """One thing to measure.

    `command` makes the argument list; `missing` gives the reason why it cannot run here, or "".
    `stats`: it has /stats with its count of dropped messages. `about`: a path whose answer names a version.
    `publish` is "redis", "nchan" or "centrifugo". `can`: what it can beside plain streams.
    """

    name: str
    title: str
    command: Callable[[Place], list[str]]
    missing: Callable[[], str]
    ready: str = "/readyz"
    client: Client = Client()
    publish: str = "redis"
    peer: bool = False
    workers: int = 1
    stats: bool = False
    about: str = ""
    env: dict[str, str] = field(default_factory=dict)
    can: frozenset[str] = frozenset({"tls", "tokens", "resume", "topics"})


@dataclass
class Running:
    """A started service. `shown` is its command line without folders of this machine."""

    service: Service
    pid: int
    port: int
    inner: int
    shown: str
    mode: Mode

    def _ask(self, path: str) -> bytes:
        return ask(self.inner, path, self.mode.tls is not None and self.inner == self.port)

    def about(self) -> str:
        """The line with the version, for a peer whose version no command tells."""
        if not self.service.about:
            return ""
        lines = self._ask(self.service.about).decode().splitlines()
        return next((line for line in lines if "version" in line), "")

    def dropped(self) -> int | None:
        """How many messages the service itself counted as dropped, for peers that tell."""
        if not self.service.stats:
            return None
        return int(re.search(rb"\d+", self._ask("/stats"))[0])  # type: ignore[index]


def ask(port: int, path: str, tls: bool = False) -> bytes:
    """The body of the answer, which must be 2xx. Raises OSError."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"
    unchecked = ssl._create_unverified_context() if tls else None  # a certificate of our own
    with urllib.request.urlopen(url, timeout=10, context=unchecked) as answer:
        return bytes(answer.read())


def totals(port: int) -> dict[str, int]:
    """What the service under test has counted so far. Raises OSError."""
    found: dict[str, int] = json.loads(ask(port, "/readyz"))["totals"]
    return found


def shown(words: list[str], folder: Path, env: dict[str, str]) -> str:
    """A command line as a reader would type it: no folders of this machine."""

    def plain(word: str) -> str:
        word = word.replace(str(folder), "TMP").replace(f"{CACHE}/", "").replace(str(HERE), "benchmarks")
        return f"'{word}'" if re.search(r"[{ ]", word) else word

    name = "python" if words[0] == sys.executable else Path(words[0]).name
    return " ".join([*(f"{k}={plain(v)}" for k, v in env.items()), name, *map(plain, words[1:])])


def ended_at(pid: int) -> float:
    """Send a child SIGTERM and wait until it has ended. When that was, by time.monotonic(), to the
    millisecond: subprocess looks every 50 ms. Raises RuntimeError if it takes too long."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], STOP_SECONDS)[0]:
            raise RuntimeError(f"runs {STOP_SECONDS} s after SIGTERM")
        return time.monotonic()
    finally:
        os.close(process)


def _wait_ready(port: int, path: str, tls: bool, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            ask(port, path, tls)
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


def _settings(service: Service, place: Place, extra: dict[str, str]) -> dict[str, str]:
    """The environment. Peers take the same names as the service under test, as far as they know them."""
    mode = place.mode
    if service.publish != "redis":
        return dict(service.env)
    settings = {"REDIS_PORT": str(place.redis_port), "SSE_PORT": str(place.port)}
    if not service.peer:
        settings |= {"SSE_HOST": "127.0.0.1", "REDIS_HOST": "127.0.0.1"}
    if mode.heartbeat != 30:
        settings["SSE_HEARTBEAT_SECONDS"] = str(mode.heartbeat)
    if not mode.drain and not service.peer:
        settings["SSE_DRAIN_SECONDS"] = "0"
    if mode.tls:
        settings |= dict(zip(("SSE_TLS_CERT", "SSE_TLS_KEY"), map(str, mode.tls), strict=True))
    if mode.secret:
        settings["SSE_JWT_SECRET"] = mode.secret
    if mode.secret and not service.peer:
        settings["SSE_AUTH"] = "jwt"
    if mode.history and not service.peer:
        settings |= {"SSE_HISTORY_MESSAGES": str(mode.history), "SSE_HISTORY_BYTES": str(HISTORY_BYTES)}
    return settings | service.env | ({} if service.peer else extra)


@contextlib.contextmanager
def started(
    words: list[str],
    env: dict[str, str],
    log: Path,
    port: int,
    path: str = "/readyz",
    *,
    tls: bool = False,
    cores: set[int] | None = None,
) -> Iterator[int]:
    """Start a process and wait until it answers 200 there; stop it at the end. Yields its id.

    Raises RuntimeError with the last lines of its log if it does not become ready.
    """
    with open(log, "wb") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env, preexec_fn=pinned(cores)
        )
    try:
        _wait_ready(port, path, tls, process, log)
        yield process.pid
    finally:
        stop(process)


@contextlib.contextmanager
def from_source(settings: dict[str, str], folder: Path) -> Iterator[tuple[int, int]]:
    """A process of the service in this repository, with these settings and none of the environment, that is
    ready and stops at once. Yields its id and its port."""
    port = free_port()
    env = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(HERE.parent),
        "SSE_HOST": "127.0.0.1",
        "SSE_PORT": str(port),
        "SSE_DRAIN_SECONDS": "0",
        **settings,
    }
    words = [sys.executable, "-c", "from trio_sse.cli import main; main()"]
    with started(words, env, folder / f"{port}.log", port) as pid:
        yield pid, port


@contextlib.contextmanager
def running(
    service: Service,
    redis: RedisServer,
    folder: Path,
    files: int,
    cores: set[int] | None,
    mode: Mode,
    extra: dict[str, str],
) -> Iterator[Running]:
    """Start the service and wait until its readiness URL answers 200; stop it at the end.

    A service of several workers is not pinned: one core would show nothing of the second worker. `extra`:
    further environment for the service under test. Raises RuntimeError with the last lines of its log if it
    does not become ready.
    """
    port = free_port()
    inner = free_port() if mode.tls and service.publish != "redis" else port
    place = Place(port, inner, redis.port, folder, files, mode)
    settings = _settings(service, place, extra)
    words = service.command(place)
    log, tls = folder / f"{service.name}.log", mode.tls is not None and inner == port
    cores = cores if service.workers == 1 else None
    with started(words, os.environ | settings, log, inner, service.ready, tls=tls, cores=cores) as pid:
        end = time.monotonic() + 3  # every worker subscribes; give the last one time
        while service.publish == "redis" and redis.subscribers() < service.workers and time.monotonic() < end:
            time.sleep(0.05)
        yield Running(service, pid, port, inner, shown(words, folder, settings), mode)
