"""SSE_REDIS_ROUTING=by-key, by each command: a channel for each user and topic, on one Redis."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from tests.support.client import Stream, eventually, streaming
from tests.support.process import Service, Services
from tests.support.valkeys import breakable, certificate, tls_in_front_of
from tests.support.variants import COMMANDS, TRIO_SSE, Variant

pytestmark = pytest.mark.integration

BY_KEY: dict[str, Any] = {"SSE_REDIS_ROUTING": "by-key"}
by_command = pytest.mark.parametrize("variant", COMMANDS, ids=str)


@pytest.fixture(scope="module", params=COMMANDS, ids=str)
def service(request: pytest.FixtureRequest, module_services: Services) -> Service:
    return module_services(request.param, **BY_KEY)


@pytest.fixture
def admin(valkey: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey) as client:
        yield client


def topics(names: Sequence[str]) -> str:
    return "/sse?" + "&".join(f"topic={name}" for name in names)


async def reasons(stream: Stream) -> list[str]:
    """The reasons of gaps up to the next message."""
    events = await stream.until(lambda event: event.name == "message")
    return [event.json["reason"] for event in events if event.name == "gap"]


async def test_what_is_published_right_after_connected_always_arrives(
    service: Service, admin: redis.Redis
) -> None:
    for turn in range(50):
        async with streaming(service.port, f"u{turn}") as stream:
            assert admin.publish(f"{service.channel}:user:u{turn}", f'{{"n":{turn}}}') == 1
            assert (await stream.notification())["n"] == turn


async def test_a_user_topics_and_everybody_and_nobody_else(service: Service, admin: redis.Redis) -> None:
    target = "/sse?user_id=Zo%C3%AB&topic=orders/17&topic=%7Bx%7D"
    async with streaming(service.port, target=target) as zoe, streaming(service.port, "bob") as bob:
        for n, channel in enumerate(("user:Zoë", "topic:orders/17", "topic:{x}", "user:nobody", "all")):
            admin.publish(f"{service.channel}:{channel}", f'{{"n":{n}}}')
        admin.publish(service.channel, '{"user_id":"bob","n":9}')  # the shared channel is not read
        assert [(await zoe.notification())["n"] for _ in range(4)] == [0, 1, 2, 4]
        assert (await bob.notification())["n"] == 4


async def test_many_joins_at_once_are_confirmed_before_connected(
    service: Service, admin: redis.Redis
) -> None:
    users = [f"crowd{number}" for number in range(300)]
    opened: list[Stream] = []
    done = trio.Event()

    async def one(number: int) -> None:
        async with streaming(service.port, users[number]) as stream:
            opened.append(stream)
            channel = f"{service.channel}:user:{users[number]}"
            assert await trio.to_thread.run_sync(admin.publish, channel, f'{{"n":{number}}}') == 1
            assert (await stream.notification())["n"] == number
            await done.wait()

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(one, number)
        await eventually(lambda: len(opened) == 300, "all are connected", 60)
        done.set()


async def test_a_reload_within_the_linger_has_no_gap_and_one_channel(
    service: Service, admin: redis.Redis
) -> None:
    channel = f"{service.channel}:user:reload"
    async with streaming(service.port, "reload") as stream:
        last_id = stream.connected.id
    await eventually(lambda: service.connections == 0, "it has left")
    assert admin.publish(channel, '{"n":1}') == 1
    async with streaming(service.port, "reload", headers=[("last-event-id", last_id)]) as stream:
        assert (await stream.notification())["n"] == 1
        admin.publish(channel, '{"n":2}')
        assert (await stream.notification())["n"] == 2


@pytest.mark.slow
async def test_who_comes_back_after_the_linger_is_told_of_a_gap(service: Service, admin: redis.Redis) -> None:
    channel = f"{service.channel}:user:late"
    async with streaming(service.port, "late") as stream:
        last_id = stream.connected.id
    await eventually(lambda: not admin.pubsub_numsub(channel)[0][1], "it is left", 40)
    assert admin.publish(channel, '{"n":1}') == 0
    async with streaming(service.port, "late", headers=[("last-event-id", last_id)]) as stream:
        assert (await stream.event()).json == {"reason": "history_expired", "dropped": None}
        admin.publish(channel, '{"n":2}')
        assert (await stream.notification())["n"] == 2


async def test_an_id_of_before_somebody_else_came_is_too_old(service: Service, admin: redis.Redis) -> None:
    """The same process, another user: nothing of this one is known from before."""
    async with streaming(service.port, "early") as stream:
        last_id = stream.connected.id
    admin.publish(f"{service.channel}:user:other", '{"n":1}')
    async with streaming(service.port, "other", headers=[("last-event-id", last_id)]) as stream:
        assert (await stream.event()).json["reason"] == "history_expired"


@contextlib.asynccontextmanager
async def all_of(services: list[Service], user: str) -> AsyncIterator[list[Stream]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(streaming(service.port, user)) for service in services]


async def test_redis_is_killed_and_comes_back(start: Services) -> None:
    with breakable() as valkey:
        services = start.each(COMMANDS, redis_port=valkey.port, **BY_KEY)
        async with all_of(services, "ann") as opened:
            valkey.kill()
            for service in services:
                await eventually(partial(_not_ready, service), "not ready")
                assert "redis_unreachable" in service.get("/readyz").json["detail"]
            async with all_of(services, "bob") as late:
                valkey.start()
                for service, ann, bob in zip(services, opened, late, strict=True):
                    for stream in (ann, bob):
                        event = await stream.next_but_heartbeats()
                        assert event.json == {"reason": "redis_reconnected", "dropped": None}
                    service.wait_until_answers()
                    with valkey.client() as client:
                        assert client.publish(f"{service.channel}:user:ann", '{"n":1}') == 1
                    assert (await ann.notification())["n"] == 1
                    assert sum("lost Redis" in line for line in service.log.splitlines()) == 1


def _not_ready(service: Service) -> bool:
    return service.get("/readyz").status == 503


async def test_redis_is_away_at_the_start(start: Services) -> None:
    with breakable(started=False) as valkey:
        services = start.each(COMMANDS, redis_port=valkey.port, ready="/healthz", **BY_KEY)
        async with all_of(services, "ann") as opened:
            valkey.start()
            for service, stream in zip(services, opened, strict=True):
                assert "REDIS_HOST" in service.log
                assert (await stream.next_but_heartbeats()).json["reason"] == "redis_reconnected"


async def test_an_acl_that_forbids_the_channels_is_one_clear_line(start: Services) -> None:
    with breakable() as valkey, valkey.client() as admin:
        admin.acl_setuser(
            "sse", enabled=True, passwords=["+pw"], channels=["notes", "notes:all"], commands=["+@all"]
        )
        login: dict[str, Any] = {
            "REDIS_USERNAME": "sse",
            "REDIS_PASSWORD": "pw",
            "SSE_REDIS_CHANNEL": "notes",
        }
        services = start.each(COMMANDS, redis_port=valkey.port, ready="/healthz", **BY_KEY, **login)
        async with all_of(services, "ann"):
            for service in services:
                await eventually(partial(_not_ready, service), "not ready")
            await trio.sleep(3)  # it tries again meanwhile
            for service in services:
                lines = [line for line in service.log.splitlines() if "NOPERM" in line]
                assert len(lines) == 1, service.log
                assert "SSE_REDIS_CHANNEL" in lines[0]
            admin.execute_command("ACL", "SETUSER", "sse", "&notes:*")
            for service in services:
                await trio.to_thread.run_sync(service.wait_until_answers)


async def test_a_password_and_tls(start: Services, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with breakable() as valkey, valkey.client() as admin:
        admin.config_set("requirepass", "s3cret")
        async with tls_in_front_of(valkey.port, cert, key) as front:
            url = f"rediss://:s3cret@127.0.0.1:{front}?ssl_ca_certs={cert}"
            services = [start(variant, ready=None, REDIS_URL=url, **BY_KEY) for variant in COMMANDS]
            for service in services:
                await trio.to_thread.run_sync(service.wait_until_answers)
                async with streaming(service.port, "ann") as stream:
                    assert admin.publish(f"{service.channel}:user:ann", '{"n":1}') == 1
                    assert (await stream.notification())["n"] == 1


@pytest.mark.slow
@by_command
async def test_100_000_subscriptions_are_back_soon_and_nobody_is_told_before(
    start: Services, variant: Variant
) -> None:
    with breakable() as valkey, valkey.client() as admin:
        service = start(variant, redis_port=valkey.port, SSE_MAX_TOPICS="1000", **BY_KEY)
        channel = service.channel
        async with contextlib.AsyncExitStack() as stack:
            streams = []
            for number in range(100):
                names = [f"t{number}-{one}" for one in range(1000)]
                opened = streaming(service.port, target=topics(names))
                streams.append(await stack.enter_async_context(opened))
            assert len(admin.pubsub_channels(f"{channel}:*")) == 100_001
            began = time.monotonic()
            admin.client_kill_filter(_type="pubsub")
            last = streams[-1]
            assert (await last.next_but_heartbeats()).json["reason"] == "redis_reconnected"
            print(f"{variant}: all are back after {time.monotonic() - began:.2f} s")
            assert len(admin.pubsub_channels(f"{channel}:*")) == 100_001
            for number, stream in enumerate(streams[:-1]):
                assert (await stream.next_but_heartbeats()).json["reason"] == "redis_reconnected"
                assert admin.publish(f"{channel}:topic:t{number}-999", f'{{"n":{number}}}') == 1
                assert (await stream.notification())["n"] == number


async def test_streams_by_quart_wait_as_others_do(start: Services, admin: redis.Redis) -> None:
    service = start(TRIO_SSE, SSE_DIRECT="false", **BY_KEY)
    for turn in range(20):
        async with streaming(service.port, f"u{turn}") as stream:
            assert admin.publish(f"{service.channel}:user:u{turn}", f'{{"n":{turn}}}') == 1
            assert (await stream.notification())["n"] == turn
