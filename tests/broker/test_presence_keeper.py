"""One partition at a real Redis: a node's records follow its streams, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import pytest

from tests.support.inside import settings
from tests.support.log import DATABASE, BackEnd
from trio_sse.broker.key_links import KeyLinks
from trio_sse.broker.presence_keeper import Keeper, Pace
from trio_sse.broker.presence_records import Records
from trio_sse.counters import Counters
from trio_sse.delivery.attendance import Record, Roll

GRACE = 0.2


class Node:
    """A keeper, streams for it, and what it tells."""

    def __init__(self, records: Records, pace: Pace) -> None:
        self.records = records
        self.streams: Counter[Record] = Counter()
        self.roll = Roll(lambda record: self.streams[record], asyncio.get_running_loop().time, GRACE)
        self.told: list[tuple[str, bool]] = []
        self.fails: list[str | None] = []
        self.counters = Counters()
        self.keeper = Keeper(records, self.roll, pace, self.counters, self._tell, self._fails)

    def _tell(self, users: Iterable[str], online: bool) -> None:
        self.told += [(user, online) for user in users]

    def _fails(self, keeper: Keeper, error: BaseException | None) -> None:
        self.fails.append(None if error is None else type(error).__name__)

    def opens(self, record: Record) -> None:
        self.streams[record] += 1
        self.roll.came(record)

    def closes(self, record: Record) -> None:
        self.streams[record] -= 1
        self.roll.left(record)

    async def sees(self, name: str, streams: int) -> None:
        await until_equal(lambda: self._read(name), streams)

    async def _read(self, name: str) -> int:
        return (await self.records.read([name], 0))[0].streams


async def until_equal(read: Callable[[], Awaitable[object]], expected: object) -> None:
    async with asyncio.timeout(10):
        while await read() != expected:
            await asyncio.sleep(0.02)


async def told(node: Node, *expected: tuple[str, bool]) -> None:
    async def read() -> object:
        return sorted(node.told)

    await until_equal(read, sorted(expected))


Test = Callable[..., Awaitable[None]]


@pytest.fixture
def run(port: int, back_end: BackEnd) -> Callable[[Test], None]:
    """Run a test with a way to start nodes. All stop with it, without a farewell."""

    async def with_nodes(test: Test) -> None:
        links = KeyLinks(settings(redis_port=port, redis_main_db=DATABASE), None)
        records = Records(links, "n", 0, 3600)

        async with asyncio.TaskGroup() as tasks:
            started: list[asyncio.Task[None]] = []

            def start() -> tuple[Node, asyncio.Task[None]]:
                node = Node(records, Pace(1.0, GRACE))
                started.append(tasks.create_task(node.keeper.run()))
                return node, started[-1]

            try:
                await test(start)
            finally:
                for task in started:
                    task.cancel()
        await links.close()

    return lambda test: asyncio.run(with_nodes(test))


Start = Callable[[], tuple[Node, asyncio.Task[None]]]


def test_streams_are_in_redis_while_they_are_here(run: Callable[[Test], None]) -> None:
    async def test(start: Start) -> None:
        node, _ = start()
        node.opens("ann")
        await node.sees("ann", 1)
        node.closes("ann")
        await node.sees("ann", -1)
        await told(node, ("ann", False), ("ann", True))
        assert node.counters.presence_writes == 2
        assert node.fails == [None]

    run(test)


def test_a_lost_link_costs_nothing(run: Callable[[Test], None], back_end: BackEnd) -> None:
    async def test(start: Start) -> None:
        node, _ = start()
        node.opens("ann")
        await node.sees("ann", 1)
        for number in range(3):
            back_end.client_kill_filter(_type="normal", skipme=True)
            node.opens(f"late-{number}")
            await told(node, ("ann", True), *[(f"late-{n}", True) for n in range(number + 1)])
        assert len(node.fails) > 1

    run(test)


def test_what_is_written_first_to_a_redis_that_lost_its_data_is_told_right(
    run: Callable[[Test], None], back_end: BackEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "beat", property(lambda _: 1000.0, lambda *_: None), raising=False)
    monkeypatch.setattr("trio_sse.delivery.attendance.REGRACE_SECONDS", GRACE)

    async def test(start: Start) -> None:
        node, _ = start()
        for name in ("ann", "bob"):
            node.opens(name)
        await told(node, ("ann", True), ("bob", True))
        back_end.flushdb()
        node.opens("ann")  # told already
        node.closes("bob")  # and he is to be told, though Redis does not know of him
        await node.sees("ann", 2)
        await told(node, ("ann", True), ("bob", True), ("bob", False))

    run(test)


def test_a_redis_that_lost_its_data_has_all_again_and_nobody_is_told_twice(
    run: Callable[[Test], None], back_end: BackEnd
) -> None:
    async def test(start: Start) -> None:
        node, _ = start()
        names = [str(number) for number in range(1200)]
        for name in names:
            node.opens(name)
        await told(node, *[(name, True) for name in names])
        back_end.flushdb()
        await node.sees(names[-1], 1)
        await node.sees(names[0], 1)
        await asyncio.sleep(0.5)
        assert len(node.told) == len(names)

    run(test)


def test_another_node_removes_what_a_dead_one_had_and_tells_it(run: Callable[[Test], None]) -> None:
    async def test(start: Start) -> None:
        (dead, task), (stays, _), (other, _) = start(), start(), start()
        for name in ("ann", "bob"):
            dead.opens(name)
            await dead.sees(name, 1)
        stays.opens("bob")
        await stays.sees("bob", 2)
        task.cancel()
        await stays.sees("ann", -1)

        async def gone() -> object:
            return stays.told + other.told

        await until_equal(gone, [("ann", False)])
        await stays.sees("bob", 1)

    run(test)


def test_a_farewell_lets_the_grace_begin(run: Callable[[Test], None]) -> None:
    async def test(start: Start) -> None:
        (stops, task), (stays, _) = start(), start()
        stops.opens("ann")
        await stops.sees("ann", 1)
        task.cancel()
        await stops.keeper.farewell()
        async with asyncio.timeout(1.4):  # sooner than after a death
            await stays.sees("ann", -1)

    run(test)


def test_whoever_says_farewell_before_it_was_heard_says_nothing(run: Callable[[Test], None]) -> None:
    async def test(start: Start) -> None:
        node = Node(Records(KeyLinks(settings(redis_port=1), None), "n", 0, 1), Pace(1, 1))
        await node.keeper.farewell()

    run(test)


def test_a_dead_node_is_known_within_two_heartbeats_and_its_users_have_the_grace() -> None:
    for heartbeat, grace in ((30, 10), (30, 100), (1, 10), (0.1, 0)):
        pace = Pace(heartbeat, grace)
        assert 2 * pace.beat <= max(heartbeat, 1)
        assert pace.lives + pace.beat <= 2 * max(heartbeat, 1)
        assert pace.lives - pace.beat + pace.wait >= grace, "from its death on"
        assert pace.keeps > 80 * pace.beat, "longer than until all is written again"
