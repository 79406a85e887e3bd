"""What every measurement uses: the tools, a started service, and how its clients ask."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credentials import tokens_file
from load import Load, Tools, load
from redis_server import RedisServer
from services import Mode, Running, Service, running
from works import Work

SETTLE_SECONDS = 0.5
NCHAN_WINDOW = 64  # messages under way to nginx at a time
Row = dict[str, Any]


@dataclass
class Bench:
    """All that a measurement needs.

    `extra`: further environment for the service under test. `certificate`: PEM files of certificate and key.
    """

    tools: Tools
    redis: RedisServer
    folder: Path
    files: int
    quick: bool
    extra: dict[str, str]
    certificate: tuple[Path, Path] | None

    @property
    def drain(self) -> float:
        """Seconds to wait for late messages after the last was published."""
        return 4 if self.quick else 10

    def length(self, work: Work) -> float:
        return work.seconds[1 if self.quick else 0]

    def start(self, service: Service, mode: Mode) -> AbstractContextManager[Running]:
        cores = self.tools.service_cores
        return running(service, self.redis, self.folder, self.files, cores, mode, self.extra)

    def clients(
        self, run: Running, conns: int, seconds: float, drain: float, **more: object
    ) -> AbstractContextManager[Load]:
        """Open the streams, in the way the service wants to be asked."""
        client, mode = run.service.client, run.mode
        args: dict[str, object] = {"path": client.path, "mark": client.mark, "tls": int(mode.tls is not None)}
        if mode.secret:
            args |= {"path": client.token_path, "header": client.token_header}
            args["tokens"] = tokens_file(self.folder, mode.secret, conns)
        if mode.history:
            args |= {"id_mark": client.id, "epoch_mark": client.epoch, "resume_path": client.resume}
        return load(self.tools, run.port, conns, seconds, drain, **(args | more))

    def publish(self, run: Running, seconds: float, **what: object) -> dict[str, Any]:
        """Publish by the way that the service takes; returns when all is answered."""
        where: dict[str, object] = {"to": run.service.publish, "port": run.inner}
        if run.service.publish == "redis":
            where["port"] = self.redis.port
        elif run.service.publish == "nchan":
            where["window"] = NCHAN_WINDOW
        return self.tools.publish(seconds, **where, **what)


def account(got: dict[str, Any], expected: int, missing: int, counted: int | None) -> Row:
    """What of the messages came, and who said what about the rest: the streams by gaps, and the service
    itself by `counted`."""
    return {
        "expected": expected,
        "received": got["received"],
        "missing": missing,
        "told": got["gap_dropped"],
        "told_unknown": got["gap_unknown"],
        "counted_by_service": counted,
        "accounted": missing == got["gap_dropped"],
    }
