"""Building and calling the C programs: the load client, the publisher, the floor."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import pinned
from redis_server import CHANNEL, free_port

HERE = Path(__file__).resolve().parent
TOOLS = ("load", "publish", "floor")
CONNECT_SECONDS = 90


class Tools:
    """The three programs, built into `folder`; they run on `load_cores`, the floor on `service_cores`.

    `tls`: whether the load client knows TLS, for which the headers of OpenSSL must be installed.
    """

    def __init__(self, folder: Path, service_cores: set[int] | None, load_cores: set[int] | None) -> None:
        compiler = compiler_path()
        if not compiler:
            raise RuntimeError("no C compiler (cc, gcc or clang): the load client cannot be built")
        self.folder, self.service_cores, self.load_cores = folder, service_cores, load_cores
        for name in TOOLS:
            subprocess.run([compiler, "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True)
        again = [compiler, "-O2", "-DWITH_TLS", "-o", str(folder / "load"), str(HERE / "load.c")]
        again += ["-lssl", "-lcrypto"]
        self.tls = subprocess.run(again, capture_output=True).returncode == 0

    def start(self, name: str, cores: set[int] | None, **args: object) -> subprocess.Popen[str]:
        words = [str(self.folder / name), *(f"{k}={v}" for k, v in args.items())]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1, preexec_fn=pinned(cores)
        )

    def publish(self, seconds: float, **args: object) -> dict[str, Any]:
        """Publish; returns when all is sent and answered, at the latest after `seconds`."""
        process = self.start("publish", self.load_cores, channel=CHANNEL, seconds=seconds, **args)
        try:
            out, err = process.communicate(timeout=seconds + 20)
        finally:
            end(process)
        if process.returncode:
            raise RuntimeError(f"publisher: {err.strip()}")
        return dict(json.loads(out))


def compiler_path() -> str | None:
    return next((p for p in map(shutil.which, ("cc", "gcc", "clang")) if p), None)


def end(process: subprocess.Popen[str]) -> None:
    """Kill the process if it still runs, and close its pipes."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()


class Load:
    """A running load client whose connections are open."""

    def __init__(self, process: subprocess.Popen[str], conns: int) -> None:
        self.process = process
        assert process.stderr
        line = process.stderr.readline()  # bounded: the program ends itself after `seconds` without READY
        if not line.startswith("READY"):
            raise RuntimeError(f"the load client could not open {conns} connections: {line.strip()}")
        self.up = int(line.split()[1])

    def _order(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")

    def _hear(self, answer: str) -> str:
        """The rest of the answer's line. Bounded, as the program ends itself."""
        assert self.process.stderr
        line = self.process.stderr.readline()
        if not line.startswith(answer):
            raise RuntimeError(f"the load client did not say {answer}: {line.strip()}")
        return line.removeprefix(answer)

    def _say(self, command: str, answer: str) -> str:
        self._order(command)
        return self._hear(answer)

    def cut(self) -> None:
        """Reset all connections."""
        self._say("cut", "CUT")

    def come_back(self, seconds: float) -> int:
        """Open them again, spread over so long; how many are live when none is on its way any more."""
        return int(self._say(f"return {seconds}", "BACK").split()[0])

    def watch_end(self) -> None:
        """From now on, connections that end are those of the service's stop: `gone` tells."""
        self._order("gone")

    def gone(self) -> tuple[int, float]:
        """Wait until all connections have ended. How many had before `watch_end`, and when the last one did,
        by time.monotonic()."""
        before, at = self._hear("GONE").split()
        return int(before), int(at) / 1e9

    def finish(self, deliveries: int) -> dict[str, Any]:
        """Wait until so many messages have arrived or no more come; the client's own figures."""
        out, err = self.process.communicate(f"end {deliveries}\n", timeout=CONNECT_SECONDS * 2)
        if not out:
            raise RuntimeError(f"load client: {err.strip()}")
        return dict(json.loads(out))


@contextlib.contextmanager
def load(tools: Tools, port: int, conns: int, seconds: float, drain: float, **args: object) -> Iterator[Load]:
    """Open the connections.

    `seconds`: a bound on the time after that. `drain`: seconds to wait for late messages.
    """
    process = tools.start(
        "load",
        tools.load_cores,
        port=port,
        conns=conns,
        drain=drain,
        seconds=CONNECT_SECONDS + seconds,
        **args,
    )
    try:
        yield Load(process, conns)
    finally:
        end(process)


def floor(tools: Tools, conns: int, seconds: float, rate: float = 0, **args: object) -> dict[str, Any]:
    """Run the bare send() loop against the load client; figures of both."""
    port = free_port()
    pad = args.pop("pad", 0)
    server = tools.start(
        "floor", tools.service_cores, port=port, conns=conns, seconds=seconds, rate=rate, pad=pad
    )
    try:
        assert server.stderr
        assert server.stdin
        assert server.stdout
        if not server.stderr.readline().startswith("LISTENING"):
            raise RuntimeError("the floor did not start")
        with load(tools, port, conns, seconds + 10, drain=5, **args) as client:
            server.stdin.write("go\n")
            sent = dict(json.loads(server.stdout.readline()))
            return {"floor": sent, "load": client.finish(sent["sends"])}
    finally:
        end(server)
