"""Services behind Caddy, as deploy/compose.yaml has them: one after the other is replaced under load, and
nothing is missing."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import trio
import yaml
from httpx_sse import ServerSentEvent

from tests.support import proxies
from tests.support.client import eventually, streaming
from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.tools import ROOT
from tests.support.variants import TRIO_SSE
from trio_sse.commands.follow import Target, follow, new_client

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CADDYFILE = ROOT / "deploy" / "Caddyfile"
COMPOSE = yaml.safe_load(ROOT.joinpath("deploy", "compose.yaml").read_text())
SETTINGS = {
    name: value
    for name, value in COMPOSE["services"]["sse-1"]["environment"].items()
    if name not in ("REDIS_HOST", "SSE_LOG_FORMAT")
}

CLIENTS = 30
DRAIN = "2"


def caddy(directory: Path, *upstreams: int) -> contextlib.AbstractContextManager[int]:
    """Caddy with the configuration of deploy/, in front of these ports. Yields its own."""
    port = free_port()
    return proxies.caddy_with(
        CADDYFILE,
        directory,
        port,
        CADDY_SITE=f":{port}",
        CADDY_UPSTREAMS=" ".join(f"127.0.0.1:{upstream}" for upstream in upstreams),
    )


class Reader:
    """A client that comes back, as browsers do."""

    def __init__(self) -> None:
        self.events: list[ServerSentEvent] = []
        self.ends = 0

    def event(self, event: ServerSentEvent) -> None:
        if event.event != "heartbeat":
            self.events.append(event)

    def lost(self, why: str, seconds: float) -> None:
        self.ends += 1

    @property
    def numbers(self) -> list[int]:
        return [json.loads(event.data)["n"] for event in self.events if event.event == "message"]

    @property
    def connected(self) -> bool:
        return any(event.event == "connected" for event in self.events)


async def _follow(target: Target, reader: Reader) -> None:
    async with new_client(target) as client:
        await follow(client, target, lambda: None, reader)


async def replace(start: Services, service: Service) -> Service:
    """Drain a service, and start it anew at the same port."""
    service.process.send_signal(signal.SIGTERM)
    await eventually(lambda: not service.running, "the service has drained", 30)
    assert service.process.returncode == 0
    new = start(ready=None, port=service.port, **service_settings(service))
    await eventually(lambda: new.answers("/readyz"), "it is ready again", 30)
    return new


def service_settings(service: Service) -> dict[str, Any]:
    names = (*SETTINGS, "SSE_DRAIN_SECONDS", "SSE_REDIS_CHANNEL", "SSE_REDIS_STREAM")
    return {name: service.environment[name] for name in names}


async def test_services_are_replaced_under_load_and_nothing_is_missing(
    start: Services, valkey: int, tmp_path: Path
) -> None:
    stream = "behind-caddy"
    settings = {**SETTINGS, "SSE_DRAIN_SECONDS": DRAIN, "SSE_REDIS_CHANNEL": stream}
    settings |= {"SSE_REDIS_STREAM": stream, "SSE_TRUSTED_PROXIES": "127.0.0.1"}
    services = start.each([TRIO_SSE, TRIO_SSE], **settings)
    readers = {f"u{number}": Reader() for number in range(CLIENTS)}
    sent: dict[str, list[int]] = {user: [] for user in readers}
    redis_client = redis.Redis(port=valkey, db=int(SETTINGS["REDIS_MAIN_DB"]))

    async def publish() -> None:
        for n, user in zip(itertools.count(), itertools.cycle(readers)):
            message = json.dumps({"user_id": user, "n": n})
            redis_client.xadd(stream, {"payload": message}, maxlen=100_000)
            sent[user].append(n)
            await trio.sleep(0.005)

    with contextlib.closing(redis_client), caddy(tmp_path, *(one.port for one in services)) as port:
        async with trio.open_nursery() as nursery:
            for user, reader in readers.items():
                target = Target(httpx.URL(f"http://127.0.0.1:{port}/sse?user_id={user}"))
                nursery.start_soon(_follow, target, reader)
            await eventually(lambda: all(one.connected for one in readers.values()), "all are connected")
            # Caddy has given each of them some.
            assert all(service.connections > CLIENTS // 5 for service in services)
            async with trio.open_nursery() as publishing:
                publishing.start_soon(publish)
                for index, service in enumerate(services):
                    services[index] = await replace(start, service)
                publishing.cancel_scope.cancel()
            await eventually(
                lambda: all(readers[user].numbers[-1:] == sent[user][-1:] for user in readers),
                "all have the newest",
                30,
            )
            nursery.cancel_scope.cancel()
    assert all(len(numbers) > 10 for numbers in sent.values())
    assert all(reader.ends for reader in readers.values()), "each was at a service that was replaced"
    for user, reader in readers.items():
        assert reader.numbers == sent[user]
        assert not [event for event in reader.events if event.event == "gap"]


async def test_what_operators_ask_is_not_for_the_world(start: Services, tmp_path: Path) -> None:
    service = start()
    with caddy(tmp_path, service.port) as port:
        async with streaming(port, "1") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            service.publish(1, message="hello")
            assert (await stream.notification())["message"] == "hello"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for path in ("/metrics", "/admin", "/admin/events", "/explain", "/disconnect", "/revoke"):
                assert (await client.get(path)).content == b"", path
            assert (await client.get("/healthz")).status_code == 200
