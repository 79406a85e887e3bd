"""Programs that are no part of this package."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import wait_until
from trio_sse.embedded import is_answering

ROOT = Path(__file__).parents[2]

_PLACES = (
    os.environ.get("PATH", ""),
    str(Path(sys.executable).parent),  # those that a package of this environment brings
    str(ROOT / ".nox" / "tools"),  # those that .ci/run builds
    "/usr/sbin",
)


def tool(name: str, *others: str) -> str:
    """The path of a program, by any of its names. Where there is none the test is skipped; in CI, only if
    CI_WITHOUT has its first name."""
    for known in (name, *others):
        if path := shutil.which(known, path=os.pathsep.join(_PLACES)):
            return path
    if os.environ.get("CI") and name not in os.environ.get("CI_WITHOUT", "").split():
        pytest.fail(f"no {name}, and in CI there must be one")
    pytest.skip(f"no {name} on PATH")


@contextlib.contextmanager
def listening(
    argv: list[str], port: int, directory: Path, end: int = signal.SIGTERM, **environment: str
) -> Iterator[int]:
    """A program as long as the block lasts, once it answers at this port. `end` is the signal to end it."""
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env={**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: is_answering(port) or process.poll() is not None, f"{argv[0]} listens", seconds=30)
        assert process.poll() is None, (directory / "output").read_text()
        yield port
    finally:
        process.send_signal(end)
        process.wait(10)
