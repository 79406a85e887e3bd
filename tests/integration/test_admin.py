"""An operator's deeds reach every worker and node; nobody else's do."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from tests.integration.test_explain import ADMIN, BEARER, JWT, explain, wait_for
from tests.integration.test_workers import start_workers
from tests.support.client import Stream, eventually, streaming
from tests.support.clusters import cluster
from tests.support.process import Answer, Service, Services
from tests.support.rights import GRANTED, granting
from tests.support.tokens import token
from tests.support.valkeys import breakable
from tests.support.variants import COMMANDS, TRIO_SSE, Variant

pytestmark = pytest.mark.integration


def post(service: Service, path: str, **body: object) -> Answer:
    return service.get(path, method="POST", headers=BEARER, body=json.dumps(body).encode())


def bearing(given: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {given}")]


async def ends_of(opened: Sequence[Stream]) -> set[str]:
    return {(await stream.to_the_end())[-1].name for stream in opened}


@pytest.mark.parametrize("variant", COMMANDS, ids=str)
async def test_a_token_is_revoked_while_its_streams_are_open_on_other_workers(
    start: Services, variant: Variant
) -> None:
    service = start_workers(start, variant, **JWT)
    wait_for(service, 2)
    given, other = token(sub="ann", jti="stolen"), token(sub="ann", jti="good")
    opened: list[Stream] = []
    async with (
        streaming(service.port, headers=bearing(given)) as one,
        streaming(service.port, headers=bearing(given)) as two,
        streaming(service.port, headers=bearing(given)) as three,
        streaming(service.port, headers=bearing(given)) as four,
        streaming(service.port, headers=bearing(given)) as five,
        streaming(service.port, headers=bearing(given)) as six,
        streaming(service.port, headers=bearing(other)) as kept,
    ):
        opened = [one, two, three, four, five, six]
        answer = post(service, "/revoke", jti="stolen")
        assert (answer.status, answer.json["ended"], answer.json["missing"]) == (200, 6, [])
        assert await ends_of(opened) == {"auth_revoked"}
        for _ in range(8):  # whichever worker is asked
            assert service.get("/sse", headers=dict(bearing(given))).status == 401
        service.publish("ann", n=1)
        assert (await kept.notification())["n"] == 1
    assert answer.json["until"] > time.time() + 86_400


async def test_a_node_that_starts_later_knows_which_tokens_are_revoked(start: Services) -> None:
    settings = {**JWT, "SSE_REDIS_CHANNEL": "revoked-before"}
    one = start(**settings)
    given = token(sub="ann", iat=int(time.time()) - 60)
    assert post(one, "/revoke", user_id="ann").status == 200
    later = start(**settings)
    for service in (one, later):
        answer = service.get("/sse", headers=dict(bearing(given)))
        assert (answer.status, answer.json["detail"]) == (401, "the token is revoked")
    async with streaming(later.port, headers=bearing(token(sub="ann", iat=int(time.time()) + 2))):
        pass  # a token that was issued after that counts


async def test_a_node_that_was_away_learns_of_it_when_it_is_back(start: Services) -> None:
    settings = {**JWT, "SSE_REDIS_CHANNEL": "revoked-meanwhile"}
    one, other = start(**settings), start(**settings)
    wait_for(one, 2)
    async with streaming(other.port, headers=bearing(token(sub="ann", jti="stolen"))) as stream:
        other.process.send_signal(signal.SIGSTOP)
        answer = post(one, "/revoke", jti="stolen")
        assert answer.status == 200
        assert [node["pid"] for node in answer.json["missing"]] == [other.process.pid], "that is told"
        other.process.send_signal(signal.SIGCONT)
        assert (await stream.to_the_end())[-1].name == "auth_revoked"


async def test_a_user_s_streams_end_on_all_nodes_and_may_come_back(start: Services) -> None:
    settings: dict[str, Any] = {"SSE_ADMIN_TOKEN": ADMIN, "SSE_REDIS_CHANNEL": "disconnected"}
    one, other = start(TRIO_SSE, SSE_WORKERS="2", **settings), start(SSE_DIRECT="false", **settings)
    wait_for(one, 3)
    async with (
        streaming(one.port, "ann") as first,
        streaming(one.port, "ann") as second,
        streaming(other.port, "ann") as third,
        streaming(other.port, "bob"),
    ):
        assert post(one, "/disconnect", user_id="ann").json["ended"] == 3
        assert await ends_of([first, second, third]) == {"ended_by_operator"}
        assert explain(one, "bob")["story"]["verdict"]["code"] == "ok"
        async with streaming(one.port, "ann"):
            pass


async def test_one_stream_of_another_node_is_ended_by_its_id(start: Services) -> None:
    settings: dict[str, Any] = {"SSE_ADMIN_TOKEN": ADMIN, "SSE_REDIS_CHANNEL": "one-of-two"}
    one, other = start(**settings), start(**settings)
    wait_for(one, 2)
    async with streaming(other.port, "ann") as meant, streaming(other.port, "ann") as kept:
        answer = post(one, "/disconnect", stream=meant.connected.json["connection_id"])
        assert answer.json["ended"] == 1
        await ends_of([meant])
        other.publish("ann", n=1)
        assert (await kept.notification())["n"] == 1


async def test_whoever_may_only_publish_cannot_end_streams(start: Services, valkey: int) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN)
    async with streaming(service.port, "ann") as stream:
        with redis.Redis(port=valkey) as client:
            body = b'{"kind":"end","sender":"x","at":%d,"nonce":"n","what":{"user":"ann"}}' % time.time()
            for payload in (body, b"0" * 64 + b" " + body, b"", b"\xff" * 1000):
                assert client.publish(f"{service.channel}:control", payload) == 1
        await eventually(lambda: "a command is not obeyed" in service.log, "it came")
        service.publish("ann", n=1)
        assert (await stream.notification())["n"] == 1
    service.stop()
    assert service.log.count("a command is not obeyed") == 1, "one line, however many there are"


async def test_processes_with_different_tokens_do_not_obey_each_other(start: Services) -> None:
    settings: dict[str, Any] = {"SSE_REDIS_CHANNEL": "at-odds"}
    one = start(SSE_ADMIN_TOKEN=ADMIN, **settings)
    other = start(SSE_ADMIN_TOKEN="another-token-0123456789", **settings)
    async with streaming(other.port, "ann") as stream:
        await eventually(lambda: explain(one, "ann")["asked"]["missing"], "it is known that there is another")
        answer = post(one, "/disconnect", user_id="ann").json
        assert (answer["ended"], len(answer["missing"])) == (0, 1)
        other.publish("ann", n=1)
        assert (await stream.notification())["n"] == 1
    assert "SSE_ADMIN_TOKEN" in other.log


async def test_without_a_token_there_is_nothing_of_it_in_redis(start: Services, valkey: int) -> None:
    service = start()
    with redis.Redis(port=valkey) as client:
        channels: Any = client.pubsub_channels(f"{service.channel}:*")
        assert channels == []


async def test_the_rights_that_the_docs_name_are_enough(start: Services) -> None:
    settings: dict[str, Any] = {**JWT, **GRANTED}
    commands = granting()
    with breakable() as valkey, valkey.client() as admin:
        [ours] = [words for words in commands if "~trio_sse:control:*" in words]
        for words in (*commands[:2], ours):
            admin.execute_command(*words)
        one, other = start(redis_port=valkey.port, **settings), start(redis_port=valkey.port, **settings)
        wait_for(one, 2)
        async with streaming(other.port, headers=bearing(token(sub="ann", jti="stolen"))) as stream:
            assert post(one, "/revoke", jti="stolen").json["ended"] == 1
            await ends_of([stream])
        denied: Any = admin.execute_command("ACL", "LOG")
        assert denied == []


async def test_at_a_cluster(start: Services) -> None:
    with cluster(3) as three:
        settings: dict[str, Any] = {
            **JWT,
            "SSE_REDIS_CHANNEL": "clustered",
            "REDIS_CLUSTER": ",".join(node.address for node in three.masters),
        }
        one, other = start(**settings), start(**settings)
        wait_for(one, 2)
        given = token(sub="ann", jti="stolen")
        async with streaming(other.port, headers=bearing(given)) as stream:
            three.publish("clustered:user:ann", '{"user_id":"ann","n":1}')
            id = (await stream.event()).id  # noqa: A001
            assert explain(one, "ann", id)["story"]["verdict"]["code"] == "taken"
            assert post(one, "/revoke", jti="stolen").json["ended"] == 1
            await ends_of([stream])
        assert start(**settings).get("/sse", headers=dict(bearing(given))).status == 401
