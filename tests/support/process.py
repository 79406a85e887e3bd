"""The service as a process of its own, started by one of the commands a user would type."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.ports import free_port
from tests.support.variants import TRIO_SSE, Variant

START_SECONDS = 30
STOP_SECONDS = 30
"""Bounds for waiting on a busy machine. What the contract promises is asserted by the tests."""

SIGNS_OF_A_MISTAKE = (
    "Traceback (most recent call last)",
    "Exception ignored in",
    "was never awaited",
    "was never retrieved",
    "Task was destroyed",
)


def with_code_under_test(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, in which Python finds the code that the tests import, wherever it is installed."""
    paths = [environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(path for path in paths if path)
    return {"PATH": os.environ["PATH"], **environment, **({"PYTHONPATH": path} if path else {})}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 15) -> None:
    """Block until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Stopped:
    code: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """A running process, with what tests ask of it."""

    def __init__(
        self,
        argv: list[str],
        port: int,
        environment: Mapping[str, str],
        log: Path,
        *,
        redis_port: int | None,
        certificate: str | None = None,
    ) -> None:
        self.port = port
        self.tls = ssl.create_default_context(cafile=certificate) if certificate else None
        self.channel = environment.get("SSE_REDIS_CHANNEL", "notifications")
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        self.traceback_expected = False
        self._log = log
        self._redis = redis.Redis(port=redis_port) if redis_port else None
        self.environment = with_code_under_test(environment)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="backslashreplace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def answers(self, path: str) -> bool:
        """Whether `path` answers 200."""
        assert self.running, f"the process ended with code {self.process.returncode}"
        try:
            return self.get(path).status == 200
        except OSError:
            return False

    def wait_until_answers(self, path: str = "/readyz") -> Service:
        try:
            wait_until(lambda: self.answers(path), f"200 from {path}", START_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None
        return self

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if self.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    @property
    def connections(self) -> int:
        """How many streams the service says it has."""
        return int(self.get("/readyz").json["connections"])

    @property
    def workers(self) -> list[int]:
        """The processes that serve: the children that Hypercorn made, or the process itself."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        made = [
            int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
        ]
        return made or [pid]

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def publish(self, user_id: object, **fields: object) -> None:
        self.publish_raw([json.dumps({"user_id": user_id, **fields}).encode()])

    def publish_raw(self, payloads: Iterable[bytes]) -> None:
        assert self._redis is not None
        pipeline = self._redis.pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(self.channel, payload)
        pipeline.execute()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Stopped:
        """Send the signal and wait for the end."""
        begin = time.monotonic()
        self.process.send_signal(number)
        return self.wait(begin)

    def wait(self, begin: float | None = None) -> Stopped:
        begin = time.monotonic() if begin is None else begin
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {STOP_SECONDS} s\n{self.log}") from None
        return Stopped(code, time.monotonic() - begin)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the process if it still runs, and look into its log for mistakes."""
        if self._redis is not None:
            self._redis.close()
        if self.running:
            self.stop()
        if not self.traceback_expected:
            for sign in SIGNS_OF_A_MISTAKE:
                assert sign not in self.log, self.log

    def tell(self) -> str:
        """What it says of itself, and the end of its log."""
        try:
            state = self.get("/readyz").body.decode() if self.running else f"ended: {self.process.poll()}"
        except OSError as error:
            state = f"does not answer: {error}"
        return "\n".join([state, *self.log.splitlines()[-20:]])


class Services:
    """Starts services and ends all of them."""

    def __init__(self, directory: Path, redis_port: int | None) -> None:
        self._directory = directory
        self._redis_port = redis_port
        self._started: list[Service] = []

    def __call__(
        self,
        variant: Variant = TRIO_SSE,
        *arguments: str,
        ready: str | None = "/readyz",
        redis_port: int | None = None,
        port: int | None = None,
        **settings: str | None,
    ) -> Service:
        """Start one, and wait until the path `ready` answers 200 unless it is None.

        `settings` go to its environment; None leaves out one that is set by default.
        """
        service = self._start(variant, arguments, redis_port, port or free_port(), settings)
        return service.wait_until_answers(ready) if ready else service

    def each(
        self,
        variants: Iterable[Variant],
        *arguments: str,
        ready: str = "/readyz",
        redis_port: int | None = None,
        **settings: str | None,
    ) -> list[Service]:
        """Start several that have to do with the same things, side by side."""
        started = [self._start(variant, arguments, redis_port, free_port(), settings) for variant in variants]
        return [service.wait_until_answers(ready) for service in started]

    def _start(
        self,
        variant: Variant,
        arguments: Iterable[str],
        redis_port: int | None,
        port: int,
        settings: Mapping[str, str | None],
    ) -> Service:
        redis_port = redis_port or self._redis_port
        number = len(self._started)
        elsewhere = settings.keys() & {"REDIS_URL", "REDIS_SENTINELS", "REDIS_CLUSTER"}
        environment: dict[str, str | None] = {
            "SSE_HOST": "127.0.0.1",
            "SSE_PORT": str(port),
            "REDIS_HOST": None if elsewhere else "127.0.0.1",
            "REDIS_PORT": None if elsewhere else str(redis_port),
            "SSE_DRAIN_SECONDS": "0",
            "SSE_REDIS_CHANNEL": f"test-{port}-{number}",  # tests share a Valkey, and hear only themselves
            **variant.environment,
            **settings,
        }
        argv = [*variant.argv(port), *arguments]
        certificate = settings.get("SSE_TLS_CERT")
        if "--certfile" in argv:
            certificate = argv[argv.index("--certfile") + 1]
        service = Service(
            argv,
            port,
            {name: value for name, value in environment.items() if value is not None},
            self._directory / f"service-{number}.log",
            redis_port=redis_port,
            certificate=certificate,
        )
        self._started.append(service)
        return service

    def tell(self) -> list[str]:
        """What each says of itself."""
        return [service.tell() for service in self._started]

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for service in self._started:
                stack.callback(service.close)
