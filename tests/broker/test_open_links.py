"""Links to a real Redis that stay open for several calls."""

from __future__ import annotations

import pytest
import redis

from tests.support.ports import free_port
from tests.support.routed import at, in_asyncio, until
from trio_sse.broker import open_links
from trio_sse.broker.link import ERRORS, call
from trio_sse.broker.open_links import OpenLinks


def of(port: int) -> set[str]:
    """The ids of the clients that Redis has."""
    with redis.Redis(port=port) as admin:
        found = [one for one in admin.client_list() if one["cmd"] != "client|list"]
        return {one["id"] for one in found}


def test_a_link_stays_open_and_all_are_closed_at_the_end(valkey: int) -> None:
    before = of(valkey)

    async def test() -> None:
        async with OpenLinks(at(valkey)) as links:
            first = await links.at(None)
            assert await links.at(None) is first
            other = await links.at(("127.0.0.1", valkey))
            assert other is not first
            await call(first, "PING")
            await call(other, "PING")
            assert len(of(valkey) - before) == 2
        await until(lambda: not of(valkey) - before)

    in_asyncio(test)


def test_one_that_was_closed_is_opened_anew(valkey: int) -> None:
    async def test() -> None:
        async with OpenLinks(at(valkey)) as links:
            first = await links.at(None)
            await links.close(None)
            await links.close(None)
            second = await links.at(None)
            assert second is not first
            assert await call(second, "PING") == b"PONG"

    in_asyncio(test)


def test_one_that_was_idle_is_opened_anew(valkey: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis closes what is idle for its `timeout`, and says so to nobody: what is sent there is lost."""

    async def test() -> None:
        async with OpenLinks(at(valkey)) as links:
            await call(await links.at(None), "PING")
            with redis.Redis(port=valkey) as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
            monkeypatch.setattr(open_links, "IDLE_SECONDS", -1.0)
            assert await call(await links.at(None), "PING") == b"PONG"

    in_asyncio(test)


def test_one_that_cannot_be_opened_is_none_of_them(valkey: int) -> None:
    async def test() -> None:
        async with OpenLinks(at(valkey)) as links:
            nobody = ("127.0.0.1", free_port())
            for _ in range(2):
                with pytest.raises(ERRORS):
                    await links.at(nobody)
            await links.close(nobody)
            assert await call(await links.at(None), "PING") == b"PONG"

    in_asyncio(test)
