"""Who is here, over several real processes: what is answered, and what is told to a topic."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from tests.integration.test_publish import ONE, TOKENS
from tests.support.client import Stream, eventually, streaming
from tests.support.clusters import Cluster, cluster
from tests.support.process import Answer, Service, Services, wait_until
from tests.support.valkeys import breakable
from tests.support.variants import HYPERCORN, TRIO_SSE

pytestmark = pytest.mark.integration

HEARTBEAT = 2.0
PRESENCE: dict[str, Any] = {
    **TOKENS,
    "SSE_PRESENCE": "true",
    "SSE_PRESENCE_TOPIC": "who",
    "SSE_PRESENCE_GRACE_SECONDS": "1",
    "SSE_HEARTBEAT_SECONDS": str(HEARTBEAT),
    "SSE_REDIS_CHANNEL": None,
}


def two(start: Services, name: str, **settings: Any) -> list[Service]:
    """Two nodes, each by another command."""
    return start.each((TRIO_SSE, HYPERCORN), **{**PRESENCE, "SSE_REDIS_CHANNEL": name, **settings})


def get(service: Service, query: str, **headers: str) -> Answer:
    return service.get(f"/presence?{query}", headers={**ONE, **headers})


def user(service: Service, name: str) -> tuple[bool, int]:
    told = get(service, f"user_id={name}").json["users"][name]
    return told["online"], told["streams"]


def topic(service: Service, name: str) -> dict[str, Any]:
    told: dict[str, Any] = get(service, f"topic={name}&ids=true").json["topics"][name]
    return {**told, "ids": sorted(told["ids"])}


async def answered(service: Service, name: str, expected: tuple[bool, int], seconds: float = 15) -> None:
    await eventually(lambda: user(service, name) == expected, f"{name} is {expected}", seconds)


class Witness:
    """A stream of the topic that is told who comes and goes."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def of(self, name: str) -> list[bool]:
        return [online for user_id, online in self.told if user_id == name]

    async def listen(self, stream: Stream) -> None:
        while True:
            event = await stream.event()
            if event.name == "presence":
                message = event.json["message"]
                self.told.append((message["user_id"], message["online"]))

    async def heard(self, name: str, expected: list[bool]) -> None:
        await eventually(lambda: self.of(name) == expected, f"{name}: {expected}, not {self.told}", 30)


@asynccontextmanager
async def witness(service: Service) -> AsyncIterator[Witness]:
    found = Witness()
    async with (
        streaming(service.port, target="/sse?user_id=witness&topic=who") as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(found.listen, stream)
        await found.heard("witness", [True])
        yield found
        nursery.cancel_scope.cancel()


async def test_each_node_knows_who_is_at_the_other_and_with_how_many_streams(start: Services) -> None:
    here, there = two(start, "each-node")
    assert user(here, "ann") == (False, 0)
    async with AsyncExitStack() as stack:
        for service in (here, here, there):
            await stack.enter_async_context(streaming(service.port, "ann"))
        for service in (here, there):
            await answered(service, "ann", (True, 3))
        assert user(here, "bob") == (False, 0)
    for service in (here, there):
        await answered(service, "ann", (False, 0))


async def test_a_topic_has_users_over_all_nodes_each_once_and_streams(start: Services) -> None:
    here, there = two(start, "topic-users")
    targets = [(here, "user_id=ann&topic=orders/17"), (there, "user_id=ann&topic=orders/17")]
    targets += [(there, "user_id=bob&topic=orders/17&topic=news"), (there, "topic=news")]
    async with AsyncExitStack() as stack:
        for service, target in targets:
            await stack.enter_async_context(streaming(service.port, target=f"/sse?{target}"))
        everybody = {"online": True, "streams": 3, "users": 2, "ids": ["ann", "bob"], "more": False}
        await eventually(lambda: topic(here, "orders/17") == everybody, "both users")
        # A stream of topics alone has no user.
        news = {"online": True, "streams": 2, "users": 1, "ids": ["bob"], "more": False}
        await eventually(lambda: topic(there, "news") == news, "one user, two streams")
        many = get(here, "user_id=ann&user_id=bob&user_id=eve&topic=news").json
        assert [name for name, told in many["users"].items() if told["online"]] == ["ann", "bob"]
        assert "ids" not in many["topics"]["news"]
    nobody = {"online": False, "streams": 0, "users": 0, "ids": [], "more": False}
    await eventually(lambda: topic(here, "orders/17") == topic(here, "news") == nobody, "nobody")


@pytest.mark.parametrize("routing", ["shared", "by-key"])
async def test_a_topic_is_told_once_who_comes_and_who_goes_and_nothing_of_a_reload(
    start: Services, routing: str
) -> None:
    here, there = two(start, f"told-{routing}", SSE_REDIS_ROUTING=routing)
    async with witness(there) as told:
        async with streaming(here.port, "ann"), streaming(here.port, "ann"), streaming(there.port, "ann"):
            await told.heard("ann", [True])
        async with streaming(here.port, "ann"):  # loaded again
            await answered(there, "ann", (True, 1))
            await trio.sleep(2)  # longer than the grace
            assert told.of("ann") == [True]
        async with streaming(there.port, "ann"):  # and by way of the other node
            await trio.sleep(2)
            assert told.of("ann") == [True]
        await told.heard("ann", [True, False])
        async with streaming(here.port, "ann"):
            await told.heard("ann", [True, False, True])
    assert told.of("witness") == [True]


async def test_the_users_of_a_killed_node_are_gone_within_two_heartbeats_and_told_once(
    start: Services,
) -> None:
    settings = {**PRESENCE, "SSE_REDIS_CHANNEL": "killed"}
    killed, one, other = start.each((TRIO_SSE, TRIO_SSE, HYPERCORN), **settings)
    names = [f"user-{number}" for number in range(40)]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(witness(one))
        for name in names:
            target = f"/sse?user_id={name}&topic=room"
            await stack.enter_async_context(streaming(killed.port, target=target))
        await stack.enter_async_context(streaming(other.port, target="/sse?user_id=user-0&topic=room"))
        query = "topic=room&" + "&".join(f"user_id={name}" for name in names)

        def online() -> list[str]:
            return [name for name, told in get(one, query).json["users"].items() if told["online"]]

        await eventually(lambda: online() == names, "all are here")
        await first.heard(names[-1], [True])
        with trio.fail_after(2 * HEARTBEAT + 2):  # and what the machine takes
            killed.kill()
            await eventually(lambda: online() == ["user-0"], "those of the killed node are gone")
        await eventually(lambda: topic(other, "room")["ids"] == ["user-0"], "from the topic too")
        await first.heard(names[-1], [True, False])
        await eventually(lambda: len(first.told) >= 2 * len(names) - 1 + 1, "all are told")
        await trio.sleep(HEARTBEAT)
        assert {name: first.of(name) for name in names[1:]} == {name: [True, False] for name in names[1:]}
        assert first.of("user-0") == [True]


async def test_a_node_that_stops_leaves_its_users_the_grace_to_come_back_elsewhere(start: Services) -> None:
    stops, stays = two(start, "stops")
    async with witness(stays) as told, streaming(stops.port, "ann"), streaming(stops.port, "bob"):
        await told.heard("ann", [True])
        await told.heard("bob", [True])
        assert stops.stop().code == 0
        async with streaming(stays.port, "ann"):
            await told.heard("bob", [True, False])
            assert told.of("ann") == [True]
            assert user(stays, "ann") == (True, 1)


async def test_a_node_that_was_taken_for_dead_comes_back_with_its_users(start: Services) -> None:
    frozen, stays = two(start, "frozen")
    async with witness(stays) as told, streaming(frozen.port, "ann"):
        await told.heard("ann", [True])
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            await told.heard("ann", [True, False])
            assert user(stays, "ann") == (False, 0)
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        await told.heard("ann", [True, False, True])
        assert user(stays, "ann") == (True, 1)


async def test_while_redis_is_away_no_stream_suffers_and_then_all_is_written_anew(start: Services) -> None:
    with breakable() as valkey:
        here, there = two(start, "away", REDIS_PORT=str(valkey.port))
        async with (
            witness(there) as told,
            streaming(here.port, "ann"),
            streaming(there.port, "bob"),
        ):
            async with streaming(here.port, "eve"):
                for name in ("ann", "bob", "eve"):
                    await told.heard(name, [True])
                valkey.kill()
                assert get(here, "user_id=ann").status == 503
                await eventually(lambda: not here.answers("/readyz"), "Redis is missed")
            async with streaming(here.port, "carl") as late:
                assert late.connected.name == "connected"
                valkey.start()  # without any data
                await told.heard("carl", [True])
                for service in (here, there):
                    for name in ("ann", "bob", "carl"):
                        await answered(service, name, (True, 1))
                await told.heard("eve", [True, False])
                assert (told.of("ann"), told.of("bob")) == ([True], [True])
    here.traceback_expected = there.traceback_expected = False


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    with cluster(3, replicas=1) as found:
        yield found


async def test_in_a_cluster_it_is_the_same_and_survives_a_master(
    start: Services, replicated: Cluster
) -> None:
    nodes = ",".join(node.address for node in replicated.masters)
    settings = {"REDIS_CLUSTER": nodes, "REDIS_HOST": None, "REDIS_PORT": None}
    here, there = two(start, "in-a-cluster", **settings)
    names = [f"user-{number}" for number in range(30)]
    query = "topic=room&ids=true&" + "&".join(f"user_id={name}" for name in names)

    def all_here() -> bool:
        answer = get(there, query)
        if answer.status != 200:
            return False
        told = answer.json
        users = [name for name, one in told["users"].items() if one["online"]]
        return users == names and sorted(told["topics"]["room"]["ids"]) == sorted(names)

    def nobody_here() -> bool:
        answer = get(there, query)
        return answer.status == 200 and not any(one["online"] for one in answer.json["users"].values())

    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(witness(there))
        for name in names:
            await stack.enter_async_context(streaming(here.port, target=f"/sse?user_id={name}&topic=room"))
        await eventually(all_here, "all are here")
        for name in names:
            await told.heard(name, [True])
        replicated.kill_master(replicated.masters[0])
        async with streaming(here.port, "late"):
            await eventually(all_here, "all are here again", 40)
            await answered(there, "late", (True, 1), 40)
        await answered(there, "late", (False, 0), 40)
        here.kill()
        await eventually(
            lambda: not any(one["online"] for one in get(there, query).json["users"].values()), "gone"
        )


async def test_many_tabs_cost_few_writes(start: Services) -> None:
    with breakable() as valkey, valkey.client() as admin:
        service = start(redis_port=valkey.port, **{**PRESENCE, "SSE_PRESENCE_TOPIC": None})

        def writes() -> int:
            return int(service.get("/readyz").json["totals"]["presence_writes"])

        users = [f"user-{number}" for number in range(50)]
        async with AsyncExitStack() as stack:
            for _ in range(4):
                for name in users:
                    await stack.enter_async_context(streaming(service.port, name))
            await answered(service, users[-1], (True, 4))
            await trio.sleep(3)
            assert writes() <= 2 * len(users), "one for who came, and one for the number of tabs"
            settled = writes()
            await trio.sleep(2 * HEARTBEAT)
            assert writes() - settled <= len(users) / 4, "once in 80 beats, whatever happens"
        commands: Any = admin.info("commandstats")
        assert commands["cmdstat_hset"]["calls"] <= writes()


@pytest.fixture(scope="module")
def guarded(module_services: Services) -> Service:
    tokens = "token-number-one,token-number-two=orders/**"
    return module_services(**{**PRESENCE, "SSE_REDIS_CHANNEL": "guarded", "SSE_PUBLISH_TOKENS": tokens})


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "neither user_id nor topic"),
        ("user_id=", 400, "user_id is empty"),
        ("topic=a*", 400, "topic has"),
        ("user=1", 400, "unknown parameter 'user'"),
        ("user_id=1&ids=yes", 400, "ids is true or false"),
        ("&".join(f"user_id={n}" for n in range(1001)), 400, "more than 1000"),
    ],
)
async def test_a_mistake_is_answered_with_what_is_wrong(
    guarded: Service, query: str, status: int, said: str
) -> None:
    answer = get(guarded, query)
    assert (answer.status, said in answer.json["detail"]) == (status, True), answer.body


async def test_who_may_ask(guarded: Service, start: Services) -> None:
    assert guarded.get("/presence?user_id=1").status == 401
    assert get(guarded, "user_id=1", Authorization="Bearer token-number-nine").status == 401
    bound = {"Authorization": "Bearer token-number-two"}
    assert get(guarded, "topic=orders/17", **bound).status == 200
    for query in ("topic=news", "user_id=1", "user_id=1&topic=orders/17"):
        assert get(guarded, query, **bound).status == 403
    off = start(**TOKENS)
    assert get(off, "user_id=1").status == 404


async def test_a_topic_that_is_none_ends_the_start(start: Services) -> None:
    service = start(ready=None, **{**PRESENCE, "SSE_PRESENCE_TOPIC": "a*"})
    wait_until(lambda: not service.running, "the end")
    assert "SSE_PRESENCE_TOPIC is no topic" in service.log
