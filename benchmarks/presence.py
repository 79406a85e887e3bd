"""What presence costs Redis: commands and records for each user who comes, stays, reloads and goes.

    python benchmarks/presence.py --users 2000 --tabs 3 --seconds 60

Two `trio-sse` processes with the default settings but SSE_PRESENCE; each user has its tabs at both. A record
is a user, a topic, or a user of a topic, in one process. Commands are those that Redis has run, in scripts
too (INFO commandstats), but for those that every service needs.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import machine
import trio
from redis_server import ask, running_redis
from services import from_source, totals

GRACE_SECONDS = 10.0
AT_ONCE = 50
IGNORED = ("info", "ping", "select", "role", "client", "config", "hello", "subscribe", "unsubscribe")


@contextlib.contextmanager
def services(redis_port: int, folder: Path) -> Iterator[list[int]]:
    """Two processes that are ready; their ports."""
    settings = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port), "SSE_PRESENCE": "true"}
    with from_source(settings, folder) as (_, one), from_source(settings, folder) as (_, other):
        yield [one, other]


class Counted:
    """Commands and records since the last look."""

    def __init__(self, redis_port: int, ports: list[int]) -> None:
        self._redis_port = redis_port
        self._ports = ports
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        found = {"records": sum(totals(port)["presence_writes"] for port in self._ports)}
        for line in ask(self._redis_port, "INFO", "commandstats").decode().splitlines():
            name, _, facts = line.removeprefix("cmdstat_").partition(":calls=")
            if facts and name.split("|")[0] not in IGNORED:
                found[name] = int(facts.partition(",")[0])
        return found

    def say(self, what: str, users: int, minutes: float | None = None) -> None:
        now = self._now()
        new = {name: count - self._before.get(name, 0) for name, count in now.items()}
        self._before = now
        records = new.pop("records")
        hashes = new.get("hset", 0) + new.get("hdel", 0)
        calls = sum(new.values())
        per = users * (minutes or 1)
        print(
            f"| {what} | {records} | {records / per:.3f} | {hashes} | {hashes / per:.3f} | {calls} |",
            flush=True,
        )


class Users:
    """Users, and the streams of each: its tabs, at both processes in turn."""

    def __init__(self, ports: list[int], users: int, tabs: int) -> None:
        self._ports = ports
        self._tabs = tabs
        self._streams: list[list[trio.SocketStream]] = [[] for _ in range(users)]

    async def load(self, user: int) -> None:
        """Open all pages, anew if they are open."""
        await self.leave(user)
        for tab in range(self._tabs):
            stream = await trio.open_tcp_stream("127.0.0.1", self._ports[(user + tab) % 2])
            await stream.send_all(b"GET /sse?user_id=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % user)
            await stream.receive_some(4096)
            self._streams[user].append(stream)

    async def leave(self, user: int) -> None:
        while self._streams[user]:
            await self._streams[user].pop().aclose()

    async def all(self, do: Callable[[int], Awaitable[None]]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)

        async def one(user: int) -> None:
            async with limit:
                await do(user)

        async with trio.open_nursery() as nursery:
            for user in range(len(self._streams)):
                nursery.start_soon(one, user)


async def run(users: int, tabs: int, seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_redis(Path(folder), None) as redis,
        services(redis.port, Path(folder)) as ports,
    ):
        print(f"{redis.version}, 2 processes, {users} users with {tabs} streams each\n")
        print("| | records | per user | HSET and HDEL | per user | all commands |")
        print("|---|---|---|---|---|---|")
        counted = Counted(redis.port, ports)
        everybody = Users(ports, users, tabs)
        await everybody.all(everybody.load)
        await trio.sleep(3)
        counted.say("all come", users)
        await trio.sleep(seconds)
        counted.say("a minute in which nothing happens", users, seconds / 60)
        await everybody.all(everybody.load)
        await trio.sleep(3)
        counted.say("all load their pages again", users)
        await everybody.all(everybody.leave)
        await trio.sleep(GRACE_SECONDS + 3)
        counted.say("all go", users)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--tabs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    machine.raise_file_limit()
    trio.run(run, given.users, given.tabs, given.seconds)


if __name__ == "__main__":
    main()
