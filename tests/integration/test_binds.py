"""A Unix socket alone, by Hypercorn's own commands and by `trio-sse`: it serves, and goes on serving."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support.client import Stream, eventually
from tests.support.process import Services
from tests.support.variants import VARIANTS, Variant

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
async def test_streams_over_a_unix_socket(start: Services, tmp_path: Path, variant: Variant) -> None:
    path = tmp_path / "socket"
    bind = Unix(variant, path)
    service = start(bind, ready=None, SSE_HOST=f"unix:{path}")
    await eventually(lambda: "Running on" in service.log, "it listens", seconds=30)
    for _ in range(3):
        async with await trio.open_unix_socket(path) as transport:
            stream = Stream(transport)
            await stream.request("/sse?user_id=ann", (), "1.1")
            assert (await stream.event()).name == "connected"
            assert (stream.headers.get("connection") == "close") is ("no-direct" not in str(variant))
    assert service.running
    assert service.stop().code == 0


class Unix(Variant):
    """The same command, on a Unix socket alone."""

    def __init__(self, variant: Variant, path: Path) -> None:
        super().__init__(variant.name, variant.command, variant.environment)
        object.__setattr__(self, "path", path)

    def argv(self, port: int) -> list[str]:
        argv = super().argv(port)
        return [f"unix:{vars(self)['path']}" if part == f"127.0.0.1:{port}" else part for part in argv]
