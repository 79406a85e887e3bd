"""After any number of clients the service holds what it held before. `nox -s endurance` takes longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.client import connect
from tests.support.endurance import BOTH, SHORT, counted, endure
from tests.support.hostile import GET_SSE
from tests.support.process import Service, Services
from tests.support.process_counts import Inside
from tests.support.valkeys import breakable
from tests.support.variants import TRIO_SSE

pytestmark = pytest.mark.integration


@pytest.mark.slow
async def test_nothing_is_left_of_clients_that_came_and_went(
    start: Services, valkey: int, tmp_path: Path
) -> None:
    await endure(start, valkey, tmp_path, BOTH, SHORT)


async def test_nothing_is_left_of_clients_that_left_while_redis_was_away(
    start: Services, tmp_path: Path
) -> None:
    """Only the stream can tell what they missed, so they wait for Redis, but no longer than they are here."""
    with breakable() as valkey:
        settings: dict[str, Any] = {"SSE_REDIS_STREAM": "away", "COUNTS_DIRECTORY": str(tmp_path)}
        service = start(counted(TRIO_SSE), redis_port=valkey.port, **settings)
        inside = Inside(tmp_path)
        await _ask_and_leave(service)
        before = await inside.settled()
        valkey.kill()
        for _ in range(300):
            await _ask_and_leave(service)
        after = await inside.no_more_than(before)
        assert not before.more(after)


async def _ask_and_leave(service: Service) -> None:
    async with await connect(service.port) as transport:
        await transport.send_all(GET_SSE.replace(b"Host: x", b"Host: x\r\nLast-Event-ID: 1-0"))
        assert await transport.receive_some(4096)
