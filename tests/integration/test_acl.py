"""The rights in Redis that docs/security.md names are all that the service needs."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.integration.test_publish import ONE, TOKENS, post
from tests.support.client import eventually, streaming
from tests.support.clusters import cluster
from tests.support.process import Services
from tests.support.rights import GRANTED, granting
from tests.support.valkeys import breakable
from tests.support.variants import TRIO_SSE

pytestmark = pytest.mark.integration


def grant(admin: redis.Redis, lines: int) -> None:
    """The first lines of the docs."""
    commands = granting()
    assert len(commands) >= 7  # those behind are for channels by key
    for words in commands[:lines]:
        admin.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_the_rights_that_the_docs_name_are_enough(start: Services) -> None:
    stream: dict[str, Any] = {"SSE_REDIS_STREAM": "events", "SSE_HISTORY_MESSAGES": "1"}
    with breakable() as valkey, valkey.client() as admin:
        grant(admin, 2)
        service = start(redis_port=valkey.port, **GRANTED)
        async with streaming(service.port) as client:
            admin.publish("notifications", '{"user_id":1,"n":1}')
            assert (await client.notification())["n"] == 1

        grant(admin, 3)
        service = start(redis_port=valkey.port, **GRANTED, **stream)
        for n in range(5):
            admin.xadd("events", {"payload": f'{{"user_id":1,"n":{n}}}'}, id=f"{n + 1}-0")
        async with streaming(service.port, headers=[("last-event-id", "1-0")]) as client:
            assert [(await client.notification())["n"] for _ in range(4)] == [1, 2, 3, 4]

        grant(admin, 4)
        for more in ({}, stream):
            service = start(redis_port=valkey.port, **GRANTED, **more, **TOKENS)
            async with streaming(service.port) as client:
                keys: list[dict[str, str]] = [{}, {"idempotency_key": "one"}, {"idempotency_key": "one"}]
                for key in keys:
                    answer = post(service, {"user_id": 1, "n": 7}, **key)
                    assert answer.status == 200, answer.body
                assert [(await client.notification())["n"] for _ in range(2)] == [7, 7]

        grant(admin, 5)
        counted: dict[str, Any] = {
            "SSE_LIMITS_SHARED": "true",
            "SSE_MAX_CONNECTIONS_PER_USER": "2",
            "SSE_CONNECTION_RATE_PER_ADDRESS": "100",
            "SSE_REBALANCE": "0.1",
        }
        service = start(redis_port=valkey.port, **GRANTED, **counted, SSE_LIMITS_WITHOUT_REDIS="closed")
        async with streaming(service.port), streaming(service.port):
            refused = service.get("/sse", headers={"Accept": "application/json"})
            assert refused.status == 429, refused.body
        assert admin.acl_log() == []


async def test_the_rights_for_presence_and_replies_are_enough(start: Services) -> None:
    settings: dict[str, Any] = {
        **GRANTED,
        "SSE_PRESENCE": "true",
        "SSE_PRESENCE_TOPIC": "who",
        "SSE_PRESENCE_GRACE_SECONDS": "0",
        "SSE_HEARTBEAT_SECONDS": "1",
        "SSE_REPLY_LISTS": "replies:",
        **TOKENS,
    }
    with breakable() as valkey, valkey.client() as admin:
        grant(admin, 7)
        one, other = start.each((TRIO_SSE, TRIO_SSE), redis_port=valkey.port, **settings)
        async with (
            streaming(one.port, target="/sse?user_id=witness&topic=who") as witness,
            streaming(other.port, target="/sse?user_id=ann&topic=room"),
        ):
            names = {(await witness.event()).json.get("message", {}).get("user_id") for _ in range(2)}
            admin.publish("notifications", '{"user_id":"ann","reply_to":"replies:1"}')
            await eventually(lambda: admin.llen("replies:1") == 1, "an answer")
            other.kill()
            while "ann" not in names:
                names.add((await witness.event()).json.get("message", {}).get("user_id"))
            gone = await witness.until(lambda event: '"online": false' in event.data)
            assert gone[-1].json["message"]["user_id"] == "ann"
            answer = one.get("/presence?topic=room&ids=true", headers=ONE)
            assert answer.json["topics"]["room"]["users"] == 0
        assert "refused" not in one.log
        assert "not kept" not in one.log
        denied: Any = admin.execute_command("ACL", "LOG")
        assert denied == []


async def test_the_rights_for_partitions_are_enough(start: Services) -> None:
    parts: dict[str, Any] = {
        **GRANTED,
        "SSE_REDIS_STREAM": "notes",
        "SSE_STREAM_PARTITIONS": "8",
        "SSE_HISTORY_MESSAGES": "1",
        **TOKENS,
    }
    with breakable() as valkey, valkey.client() as admin:
        reading, _, publishing, _ = [words for words in granting() if "~notes:*" in words]
        for words in (reading, publishing):
            admin.execute_command(*words)
        service = start(redis_port=valkey.port, **parts)
        async with streaming(service.port) as client:
            ids = []
            for key in ({}, {"idempotency_key": "one"}, {"idempotency_key": "one"}):
                answer = post(service, {"user_id": [1, 2, 3], "n": 7}, **key)
                assert answer.status == 200, answer.body
                ids.append(answer.json["messages"][0]["id"])
            assert [(await client.notification())["n"] for _ in range(2)] == [7, 7]
        assert ids[1] == ids[2]
        position = service.get("/position?user_id=1", headers=ONE)
        assert position.status == 200, position.body
        async with streaming(service.port, headers=[("last-event-id", ids[0])]) as client:
            assert (await client.notification())["n"] == 7
        assert admin.acl_log() == []


async def test_the_rights_for_partitions_of_a_cluster_are_enough(start: Services) -> None:
    parts: dict[str, Any] = {
        **GRANTED,
        "SSE_REDIS_STREAM": "notes",
        "SSE_STREAM_PARTITIONS": "8",
        **TOKENS,
    }
    with cluster(3) as nodes:
        _, reading, _, publishing = [words for words in granting() if "~notes:*" in words]
        for node in nodes.masters:
            for words in (reading, publishing):
                node.call(*words)
        service = start(REDIS_CLUSTER=nodes.masters[0].address, **parts)
        async with streaming(service.port) as client:
            for key in ({}, {"idempotency_key": "one"}):
                answer = post(service, {"user_id": "*", "n": 7}, **key)
                assert answer.status == 200, answer.body
            assert [(await client.notification())["n"] for _ in range(2)] == [7, 7]
        assert service.get("/position", headers=ONE).status == 200
        for node in nodes.masters:
            denied: Any = node.call("ACL", "LOG")
            assert denied == []
