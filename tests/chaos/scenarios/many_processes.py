"""Many processes at a cluster, and one fault after the other, while users come and go: who is here?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import trio

from tests.chaos.bench import Bench
from tests.chaos.keys import users_of
from tests.chaos.scenario import scenario
from tests.chaos.scenarios.clusters import move, until_well
from tests.chaos.scenarios.service_gone import start_again
from tests.support.process import Service

TOKEN = "back-end-" + "x" * 32
GRACE_SECONDS, HEARTBEAT_SECONDS = 1, 2
SETTINGS = {
    "SSE_PRESENCE": "true",
    "SSE_PRESENCE_GRACE_SECONDS": str(GRACE_SECONDS),
    "SSE_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "SSE_PUBLISH_TOKENS": TOKEN,
}
PATIENCE_SECONDS = 30
"""Until the answer is right: two heartbeats for the dead, on a machine that is busy."""


@scenario(
    "8 processes at a cluster, users who come and go: a master killed, slots moved, a process killed; "
    "`GET /presence` compared",
    "cluster",
    quick=False,
    seconds=300,
)
async def many_processes(bench: Bench) -> None:
    await bench.assemble_cluster(SETTINGS, users=60, rate=300, services=3 if bench.quick else 8)
    await presence_is_right(bench)

    async def master_killed() -> None:
        await trio.to_thread.run_sync(bench.cluster.kill_master, bench.cluster.masters[0])

    async def slots_moved() -> None:
        await move(bench, 2, bench.cluster.masters[1])
        await until_well(bench)

    async def process_killed() -> None:
        service = bench.services[1]
        service.process.kill()
        await trio.sleep(0 if bench.quick else 3)
        await start_again(bench, service, SETTINGS)

    faults: tuple[Callable[[], Awaitable[None]], ...] = (master_killed, slots_moved, process_killed)
    for fault in faults:
        away = bench.some_clients(0.3)
        await bench.traffic(0.5)
        for client in away:
            client.go_away()
        await fault()
        await bench.flows_again()
        await presence_is_right(bench)
        for client in away:
            client.come_back()
        await bench.flows_again()
        await presence_is_right(bench)


async def presence_is_right(bench: Bench) -> None:
    """Wait until every service says of each user whether it is here. Raises AssertionError if one does not in
    time."""
    here = {user for client in bench.clients if client.attentive for user in users_of(client.follows)}
    told: set[str] = set()
    deadline = trio.current_time() + PATIENCE_SECONDS
    for service in [one for one in bench.services if one.running]:
        while (told := await trio.to_thread.run_sync(_online, service, bench.users)) != here:
            wrong = f"said to be here: {sorted(told - here)}, and not to be: {sorted(here - told)}"
            assert trio.current_time() < deadline, wrong
            await trio.sleep(0.1)


def _online(service: Service, users: list[str]) -> set[str]:
    """Who is here, as this service says. Nobody, if it cannot say."""
    query = urlencode([("user_id", user) for user in users])
    answer = service.get(f"/presence?{query}", headers={"Authorization": f"Bearer {TOKEN}"})
    found = answer.json["users"] if answer.status == 200 else {}
    return {user for user, told in found.items() if told["online"]}
