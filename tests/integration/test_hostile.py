"""No request and no payload stops the service, or costs anybody else a message."""

from __future__ import annotations

import json
import time

import pytest
import trio

from tests.support.client import account, eventually, streaming, streams
from tests.support.hostile import UPGRADE, Attack, attacks, launch, payloads
from tests.support.process import Service, Services
from tests.support.variants import COMMANDS, Variant

pytestmark = pytest.mark.integration

REQUESTS = 5000
ATTACKERS = 50
PAYLOADS = 2000


async def attack(port: int, seed: int) -> None:
    """All attacks of a seed, by ATTACKERS clients at a time."""
    waiting = attacks(seed, REQUESTS)

    async def attacker() -> None:
        for attack in waiting:
            await launch(port, attack)

    async with trio.open_nursery() as nursery:
        for _ in range(ATTACKERS):
            nursery.start_soon(attacker)


@pytest.mark.slow
@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_hostile_requests(start: Services, variant: Variant) -> None:
    # Hypercorn notices by writing that some have left: see test_leaving.py.
    service = start(variant, SSE_HEARTBEAT_SECONDS="1")
    published = 0

    async def publish(until: trio.Event) -> None:
        nonlocal published
        while not until.is_set():
            service.publish("beside", n=published)
            published += 1
            await trio.sleep(0.01)

    async with streams(service.port, ["beside", "beside"]) as beside:
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, done)
            await attack(service.port, seed=1)
            done.set()
        service.publish("beside", n=published, last=True)
        for stream in beside:
            events = await stream.until(lambda event: '"last"' in event.data)
            assert account(events) == (published + 1, 0)
        assert service.running
        await eventually(lambda: service.connections == 2, "only the two beside are left")
    assert service.stop().code == 0


async def test_garbage_after_a_websocket_upgrade_is_one_line_in_the_log(start: Services) -> None:
    for service in start.each(COMMANDS):
        for _ in range(10):
            await launch(service.port, Attack((b"GET / HTTP/1.1\r\n" + UPGRADE, b"\xff" * 4), "read"))
        assert service.get("/healthz").status == 200
        assert "Traceback" not in service.log


async def test_hostile_payloads(served: Service) -> None:
    skipped_before = served.log.count("message skipped")
    begin = time.monotonic()
    async with streaming(served.port, "good") as stream:
        mixed = []
        for number, payload in enumerate(payloads(seed=1, count=PAYLOADS)):
            mixed += [payload, json.dumps({"user_id": "good", "n": number}).encode()]
        for at in range(0, len(mixed), 10):
            served.publish_raw(mixed[at : at + 10])
            for number in range(at // 2, at // 2 + 5):
                assert (await stream.notification())["n"] == number
    skipped = served.log.count("message skipped") - skipped_before
    assert 1 <= skipped <= time.monotonic() - begin + 1, "at most one such line a second"
