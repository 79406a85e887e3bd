"""A log in partitions, on real server processes: what is published arrives, wherever and however it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.test_commands import publish
from tests.integration.test_publish import ONE, TOKENS, post
from tests.support.client import eventually, streaming
from tests.support.clusters import Cluster
from tests.support.process import Service, Services, with_code_under_test
from tests.support.valkeys import breakable
from tests.support.variants import HYPERCORN, TRIO_SSE, script
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.targets import topic

pytestmark = pytest.mark.integration

EIGHT = Layout("notes", 8)
TOPIC = next(name for name in "abcdefgh" if EIGHT.of(topic(name)) != EIGHT.of("ann"))
BOTH = f"/sse?user_id=ann&topic={TOPIC}"
PARTS: dict[str, Any] = {"SSE_REDIS_STREAM": "notes", "SSE_STREAM_PARTITIONS": "8", **TOKENS}


@pytest.fixture(params=["one", "cluster"])
def parts(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The settings of services with an empty log."""
    if request.param == "one":
        with breakable() as server:
            yield {**PARTS, "redis_port": server.port}
        return
    three: Cluster = request.getfixturevalue("three")
    for node in three.masters:
        node.client.flushall()
    yield {**PARTS, "REDIS_CLUSTER": three.masters[0].address}


async def test_every_process_has_it_and_its_id_is_a_place_at_each(
    start: Services, parts: dict[str, Any]
) -> None:
    here, there = start.each((TRIO_SSE, HYPERCORN), **parts)
    async with streaming(here.port, target=BOTH) as one, streaming(there.port, "ann") as other:
        several = {"user_id": ["ann", "bob"], "topic": TOPIC}
        answer = post(here, [{**several, "n": 1}, {"user_id": "*", "n": 2}, {"user_id": "ann", "n": 3}])
        assert answer.status == 200, answer.body
        told = answer.json["messages"]
        assert [one["connections"]["took"] + one["connections"]["buffered"] for one in told] == [1, 1, 1]
        assert await one.numbers(3) == await other.numbers(3) == [1, 2, 3]
    for target in (BOTH, "/sse?user_id=ann"):
        for service, message in ((there, 0), (here, 1)):
            at = [("last-event-id", told[message]["id"])]
            async with streaming(service.port, target=target, headers=at) as again:
                assert await again.numbers(2 - message) == [2, 3][message:]


async def test_a_page_that_begins_at_a_position_misses_nothing(
    start: Services, parts: dict[str, Any]
) -> None:
    here, there = start.each((TRIO_SSE, TRIO_SSE), **parts)
    post(here, {"user_id": "ann", "n": 0})
    places = [
        there.get(f"/position{query}", headers=ONE).json["position"]
        for query in (f"?user_id=ann&topic={TOPIC}", "")
    ]
    post(here, [{"user_id": "ann", "n": 1}, {"topic": TOPIC, "n": 2}, {"user_id": "bob", "n": 3}])
    for place in places:
        async with streaming(there.port, target=BOTH, headers=[("last-event-id", place)]) as page:
            assert sorted(await page.numbers(2)) == [1, 2]


async def test_a_message_by_hand_goes_where_its_streams_read(start: Services, parts: dict[str, Any]) -> None:
    service = start(**parts)
    async with streaming(service.port, target=BOTH) as stream:
        for options in (("--user", "ann", "--user", "bob"), ("--topic", TOPIC), ("--everybody",)):
            said = publish(service, *options, "hello")
            assert said.returncode == 0, said.stderr
            assert "last_event_id=8~" in said.stdout
            assert (await stream.notification())["message"] == "hello"


@contextmanager
def routing(service: Service, log: Path, *arguments: str) -> Iterator[None]:
    """`trio-sse route` with the settings of a service."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            [script("trio-sse"), "route", *arguments],
            env=with_code_under_test(service.environment),
            stdout=said,
            stderr=said,
        )
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(15) == 0, log.read_text()


@pytest.mark.parametrize("log", [False, True], ids=["channel", "log"])
async def test_back_ends_that_cannot_change_go_on_by_way_of_the_bridge(
    start: Services, parts: dict[str, Any], valkey: int, tmp_path: Path, log: bool
) -> None:
    name = f"parts-old-{log}-{'REDIS_CLUSTER' in parts}-{os.getpid()}"  # one that no bridge has read
    service, said = start(**parts), tmp_path / "route.log"
    source = ("--from", f"redis://127.0.0.1:{valkey}/1", "--from-stream" if log else "--from-channel", name)
    async with streaming(service.port, target=BOTH) as stream:
        with redis.Redis(port=valkey, db=1) as back_end, routing(service, said, *source):
            await eventually(lambda: "routing" in said.read_text(), "the bridge")
            gap = await stream.until(lambda event: event.name == "gap")
            assert gap[-1].json == {"reason": "redis_reconnected", "dropped": None}
            targets: list[dict[str, Any]] = [{"user_id": ["ann", 7], "topic": TOPIC}, {"user_id": "*"}]
            for n, target in enumerate(targets):
                payload = json.dumps({**target, "n": n})
                if log:
                    back_end.xadd(name, {"payload": payload})
                else:
                    back_end.publish(name, payload)
            assert await stream.numbers(2) == [0, 1]
    # It stands in the log where messages may be missing: who comes later is told as well.
    async with streaming(service.port, target=BOTH, headers=[("last-event-id", "8~0.0-0")]) as late:
        events = await late.until(lambda event: event.name == "message" and event.json["n"] == 1)
        assert [event.name for event in events if event.name != "heartbeat"] == ["gap", "message", "message"]


async def test_from_one_stream_to_partitions_and_to_another_number_without_loss(start: Services) -> None:
    """As docs/scaling.md says: at each step a client comes with the id of the one before."""
    with breakable() as server, redis.Redis(port=server.port, db=1) as back_end:
        steps: list[dict[str, Any]] = [
            {"SSE_REDIS_STREAM": "notes"},
            {**PARTS, "SSE_REDIS_STREAM_BEFORE": "notes"},
            {
                **PARTS,
                "SSE_REDIS_STREAM": "new",
                "SSE_STREAM_PARTITIONS": "4",
                "SSE_REDIS_STREAM_BEFORE": "notes/8",
            },
            {**PARTS, "SSE_REDIS_STREAM": "new", "SSE_STREAM_PARTITIONS": "4"},
        ]
        writes = ["notes", EIGHT.name(EIGHT.of("ann")), Layout("new", 4).name(Layout("new", 4).of("ann"))]
        last, n, added = "", 0, 0

        def add(*keys: str) -> None:
            nonlocal added
            for key in keys:
                back_end.xadd(key, {"payload": json.dumps({"user_id": "ann", "n": added})})
                added += 1

        for step, settings in enumerate(steps):
            service = start(redis_port=server.port, **settings)
            # Back ends change one after the other, while the service knows both.
            both = (writes[min(step, 2)], writes[max(0, min(step, 2) - 1)] if step < 3 else writes[2])
            async with streaming(service.port, target=BOTH, headers=[("last-event-id", last)]) as stream:
                assert sorted(await stream.numbers(added - n)) == [*range(n, added)]
                for key in both:
                    add(key)
                    event = await stream.next_but_heartbeats()
                    assert (event.name, event.json.get("n")) == ("message", added - 1)
                    last, n = event.id, added
            add(writes[min(step, 2)])  # while nobody is here
        # Whoever was away since before the first step cannot be told what it missed.
        async with streaming(service.port, target=BOTH, headers=[("last-event-id", "8:0.mwwupy1n")]) as late:
            assert (await late.until(lambda event: event.name == "gap"))[-1].json["reason"] == "unknown_id"
