"""A connection to a real Redis: found, refused, and what its errors mean."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trio_asyncio
from redis import exceptions as refused

from tests.ports import free_port
from tests.sentinels import sentinel
from tests.streams import KEY, reading
from tests.support import PATIENCE_SECONDS, settings
from trio_sse import embedded
from trio_sse.redis_link import ERRORS, advice, answer_within, call, connected
from trio_sse.settings import Settings


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with embedded.valkey(free_port()) as port:
        yield port


@pytest.fixture
def back_end(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port) as client:
        yield client


@pytest.fixture
def dead() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        yield port


async def in_asyncio(function: Callable[[], Awaitable[Any]]) -> Any:
    """Call it in the kind of loop that a connection needs."""
    async with trio_asyncio.open_loop():
        return await trio_asyncio.aio_as_trio(function)()


async def ask(at: Settings, *command: str) -> Any:
    """The answer to one command on a connection of its own."""

    async def asked() -> Any:
        async with connected(at) as connection:
            return await call(connection, *command)

    return await in_asyncio(asked)


async def port_found(at: Settings) -> int:
    return int((await ask(at, "CONFIG", "GET", "port"))[1])


async def error_of(at: Settings) -> str:
    """What becomes of the error in connecting: one line."""

    async def failed() -> str:
        with pytest.raises(ERRORS) as raised:
            await connected(at).__aenter__()
        return advice(raised.value)

    line: str = await in_asyncio(failed)
    assert "\n" not in line
    return line


def sentinels(*ports: int, **values: Any) -> Settings:
    return settings(redis_sentinels=",".join(f"127.0.0.1:{port}" for port in ports), **values)


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/2", "redis://default:@127.0.0.1:{port}"])
async def test_a_url_stands_for_the_single_settings(port: int, form: str) -> None:
    at = settings(redis_port=1, redis_url=form.format(port=port))
    info = (await ask(at, "CLIENT", "INFO")).decode()
    assert f" db={2 if form.endswith('/2') else 0} " in info


async def test_the_main_database_is_selected(port: int) -> None:
    info = (await ask(settings(redis_port=port, redis_main_db=7), "CLIENT", "INFO")).decode()
    assert " db=7 " in info


async def test_the_connection_ends_with_the_block(port: int, back_end: redis.Redis) -> None:
    def clients() -> int:
        listed: Any = back_end.client_list()
        return len(listed)

    before = clients()
    await ask(settings(redis_port=port), "PING")
    assert clients() == before


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"redis_password": "wrong"}, "REDIS_PASSWORD"),
        ({"redis_username": "nobody", "redis_password": "wrong"}, "REDIS_USERNAME"),
        ({"redis_main_db": 99}, "REDIS_MAIN_DB"),
        ({"redis_username": "deaf", "redis_password": "pw"}, "SSE_REDIS_CHANNEL"),
        ({"redis_username": "ear", "redis_password": "pw"}, "SSE_REDIS_STREAM"),
        ({"redis_username": "both", "redis_password": "pw"}, None),
        ({"redis_username": "ear", "redis_password": "pw", "redis_stream": None}, None),
        ({"redis_host": "no.such.host.invalid"}, "REDIS_HOST"),
    ],
)
async def test_what_redis_refuses_names_the_setting_to_change(
    port: int, back_end: redis.Redis, values: dict[str, Any], setting: str | None
) -> None:
    users: dict[str, dict[str, Any]] = {
        "deaf": {"keys": ["*"], "reset_channels": True},
        "ear": {"channels": ["notifications"]},
        "both": {"channels": ["notifications"], "keys": [KEY]},
    }
    for user, rights in users.items():
        back_end.acl_setuser(user, enabled=True, passwords=["+pw"], commands=["+@all"], reset=True, **rights)
    async with reading(port, **values) as service:
        assert (setting or "") in (service.not_ready() or "")
        assert (service.not_ready() is None) is (setting is None)


@pytest.mark.parametrize(
    ("error", "setting"),
    [
        (refused.AuthenticationError("no"), "REDIS_USERNAME, REDIS_PASSWORD"),
        (refused.ResponseError("WRONGPASS invalid"), "REDIS_USERNAME, REDIS_PASSWORD"),
        (refused.ResponseError("NOAUTH Authentication required."), "REDIS_USERNAME, REDIS_PASSWORD"),
        (refused.NoPermissionError("NOPERM this user has no permissions"), "SSE_REDIS_CHANNEL"),
        (refused.ResponseError("DB index is out of range"), "REDIS_MAIN_DB"),
        (refused.ResponseError("WRONGTYPE Operation against a key"), "SSE_REDIS_STREAM"),
        (ssl.SSLError("wrong version number"), "rediss://"),
        (refused.ConnectionError("SSL handshake failed"), "rediss://"),
        (OSError(111, "refused"), "REDIS_HOST, REDIS_PORT or REDIS_URL"),
        (TimeoutError(), "TimeoutError (REDIS_HOST"),
    ],
)
def test_an_error_becomes_one_line_of_advice(error: Exception, setting: str) -> None:
    assert setting in advice(error)
    assert "\n" not in advice(error)


def test_advice_sees_the_tls_error_behind_a_connection_error() -> None:
    error = refused.ConnectionError("it failed")
    error.__cause__ = ssl.SSLError("bad certificate")
    assert "rediss://" in advice(error)


async def test_a_sentinel_knows_where_the_master_is(tmp_path: Path, port: int) -> None:
    with sentinel(tmp_path, port) as guard:
        assert await port_found(sentinels(guard, redis_port=1)) == port


async def test_with_sentinels_login_and_database_are_those_of_the_settings(
    tmp_path: Path, port: int, back_end: redis.Redis
) -> None:
    back_end.acl_setuser("ann", enabled=True, passwords=["+pw"], commands=["+@all"])
    with sentinel(tmp_path, port, name="front", password="secret") as guard:
        at = sentinels(
            guard, redis_sentinel_master="front", redis_sentinel_password="secret", redis_username="ann",
            redis_password="pw", redis_main_db=5,
        )  # fmt: skip
        info = (await ask(at, "CLIENT", "INFO")).decode()
        assert " db=5 " in info
        assert " user=ann " in info
        line = await error_of(sentinels(guard, redis_sentinel_master="front"))
        assert "REDIS_" in line
        assert "secret" not in line


async def test_of_several_sentinels_one_that_answers_is_enough(tmp_path: Path, port: int, dead: int) -> None:
    """The first is gone, the second is silent, the third knows another master."""
    with sentinel(tmp_path, port, name="other") as ignorant, sentinel(tmp_path, port) as guard:
        assert await port_found(sentinels(1, dead, ignorant, guard)) == port


async def test_where_no_sentinel_answers_one_line_names_them_all(
    tmp_path: Path, port: int, dead: int
) -> None:
    with sentinel(tmp_path, port, name="other") as ignorant:
        line = await error_of(sentinels(1, dead, ignorant))
    for text in ("127.0.0.1:1:", f"127.0.0.1:{dead}:", f"127.0.0.1:{ignorant} knows no master 'mymaster'"):
        assert text in line
    assert "REDIS_SENTINELS" in line
    assert "REDIS_HOST" not in line


async def test_a_replica_is_refused(tmp_path: Path, port: int) -> None:
    """During a failover a Sentinel may still name the old master, which is a replica by then."""
    with (
        embedded.valkey(free_port()) as old,
        redis.Redis(port=old) as client,
        sentinel(tmp_path, old) as guard,
    ):
        assert await port_found(sentinels(guard)) == old
        client.replicaof("127.0.0.1", port)
        line = await error_of(sentinels(guard))
        assert f"127.0.0.1:{old} is no master any more" in line
        client.replicaof("NO", "ONE")
        assert await port_found(sentinels(guard)) == old


async def test_an_answer_that_does_not_come_is_an_error_with_a_text(port: int) -> None:
    async def wait_for_nothing() -> None:
        async with connected(settings(redis_port=port)) as connection:
            with pytest.raises(TimeoutError, match=r"no answer for 0\.05 s"):
                async with answer_within(0.05):
                    await call(connection, "BLPOP", "nothing", PATIENCE_SECONDS)

    await in_asyncio(wait_for_nothing)
