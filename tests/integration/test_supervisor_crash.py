"""A mistake of our own ends the process, with the traceback once: no stream stays open that nothing feeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client import streaming
from tests.support.process import Services
from tests.support.variants import COMMANDS, Variant

pytestmark = pytest.mark.integration

BROKEN = """
import sys
from trio_sse import app, cli
from trio_sse.delivery.hub import Hub

def broken(*_):
    1 / 0

Hub.dispatch = broken
if __name__ == "__main__":
    cli.main()
"""


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_mistake_in_the_subscriber(start: Services, tmp_path: Path, variant: Variant) -> None:
    module = tmp_path / "broken.py"
    module.write_text(BROKEN)
    command = (*variant.command[:-1], "broken:app") if variant.on_hypercorn else ("python", str(module))
    service = start(Variant("broken", command, {"PYTHONPATH": str(tmp_path)}))
    service.traceback_expected = True
    async with streaming(service.port) as stream:
        service.publish(1, message="which breaks it")
        assert await stream.to_the_end() == []
    stopped = service.wait()
    if not variant.on_hypercorn:  # Hypercorn ends with 0 whatever happened
        assert stopped.code == 1
    assert service.log.count("Traceback (most recent call last)") == 1, service.log
    assert service.log.count("ZeroDivisionError: division by zero") == 1, service.log
