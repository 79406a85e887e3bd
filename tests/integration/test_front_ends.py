"""The programs of docs/front-ends.md in Node and Python, run as they stand, but for the address."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import redis
import trio

from tests.support.client import eventually
from tests.support.process import Services
from tests.support.programs import npm_install, program
from tests.support.tools import tool

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OURS = "http://127.0.0.1:8085"


def _python(directory: Path, code: str) -> list[str]:
    directory.joinpath("follow.py").write_text(code)
    return [sys.executable, "follow.py"]


def _node(directory: Path, code: str) -> list[str]:
    npm_install(directory, "eventsource")
    directory.joinpath("follow.mjs").write_text(code)
    return [tool("node"), "follow.mjs"]


PREPARE = {"Python": _python, "Node": _node}


@pytest.mark.parametrize("section", PREPARE)
async def test_it_tells_what_comes_and_comes_back(
    start: Services, valkey: int, tmp_path: Path, request: pytest.FixtureRequest, section: str
) -> None:
    """Also what was published while it was away, which the log keeps."""
    stream = f"front-end-{section}"
    service = start(SSE_REDIS_STREAM=stream)
    log_of_redis = redis.Redis(port=valkey, db=1)
    request.addfinalizer(log_of_redis.close)

    def publish(**message: object) -> None:
        log_of_redis.xadd(stream, {"payload": json.dumps(message)})

    command = PREPARE[section](tmp_path, program("front-ends.md", section, {OURS: service.url}))
    log = tmp_path / "output"
    with log.open("wb") as output:
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, cwd=tmp_path, stdout=output, stderr=output, check=False)
            )
            await eventually(lambda: service.connections == 1, "it reads", 30)
            publish(user_id=1, message="parcel shipped")
            publish(topic="orders/17", event="shipped", parcels=2)
            await eventually(lambda: "parcels" in log.read_text(), "it tells", 30)
            service.kill()
            publish(user_id=1, message="while you were away")
            start(port=service.port, SSE_REDIS_STREAM=stream)
            await eventually(lambda: "away" in log.read_text(), "it has come back", 30)
            process.kill()
    told = log.read_text()
    assert [told.count(part) for part in ("parcel shipped", "parcels", "away")] == [1, 1, 1]
    assert "Traceback" not in told
