"""Why did Alice not get it? Stories that were planted, and the answer of GET /explain to each."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import trio

from tests.support.client import Stream, connect, eventually, streaming
from tests.support.process import Service, Services
from tests.support.tokens import SECRET, token
from tests.support.valkeys import breakable
from tests.support.variants import TRIO_SSE, script
from trio_sse.delivery.partitions import Layout
from trio_sse.delivery.targets import topic

pytestmark = pytest.mark.integration

ADMIN = "operators-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {ADMIN}"}
BIG = "x" * 60_000

SETTINGS: dict[str, Any] = {"SSE_ADMIN_TOKEN": ADMIN, "SSE_REDIS_CHANNEL": "explained", "SSE_BUFFER": "2"}
JWT: dict[str, Any] = {
    "SSE_ADMIN_TOKEN": ADMIN,
    "SSE_AUTH": "jwt",
    "SSE_JWT_SECRET": SECRET,
    "SSE_JWT_LEEWAY_SECONDS": "0",
}


@pytest.fixture(scope="module")
def nodes(module_services: Services) -> list[Service]:
    """A node of two workers, and another one."""
    one = module_services(TRIO_SSE, SSE_WORKERS="2", **SETTINGS)
    other = module_services(TRIO_SSE, **SETTINGS)
    wait_for(one, 3)
    return [one, other]


@pytest.fixture
def node(nodes: list[Service]) -> Service:
    return nodes[0]


def wait_for(service: Service, processes: int) -> None:
    """Until each process knows of all others."""
    deadline = time.monotonic() + 30
    while any(len(explain(service, "nobody")["asked"]["nodes"]) < processes for _ in range(4)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def explain(service: Service, user: str | None, id: str | None = None) -> Any:  # noqa: A002
    given = {"user_id": user, "id": id}
    query = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
    answer = service.get(f"/explain?{query}", headers=BEARER)
    assert answer.status == 200, answer.body
    return answer.json


def verdict(service: Service, user: str, id: str | None = None) -> dict[str, Any]:  # noqa: A002
    """What is said of a message, or of the last one for the user."""
    story = explain(service, user, id)["story"]
    found: dict[str, Any] = story["verdict"] if id is not None else story["messages"][0]["verdict"]
    return found


async def told(service: Service, user: str, code: str, id: str | None = None) -> dict[str, Any]:  # noqa: A002
    """Wait until that is said: what happens to a stream is noticed when it is."""
    found: dict[str, Any] = {}

    def is_told() -> bool:
        try:
            found.update(verdict(service, user, id))
        except IndexError:
            return False
        return bool(found["code"] == code)

    try:
        await eventually(is_told, code, 10)
    except AssertionError:
        raise AssertionError(
            f"{code} was to be told, and not {found or explain(service, user, id)}"
        ) from None
    return found


def said(service: Service, *arguments: str) -> tuple[int, str]:
    """What `trio-sse explain` says, and its exit code."""
    environment = {**service.environment, "SSE_ADMIN_TOKEN": ADMIN}
    done = subprocess.run(
        [script("trio-sse"), "explain", "--url", service.url, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


async def last_id(service: Service, user: str) -> str:
    """The id of the last message for a user, once it has come."""
    await eventually(lambda: explain(service, user)["story"]["messages"], "the message has come")
    return str(explain(service, user)["story"]["messages"][0]["ids"][0])


@asynccontextmanager
async def stuck(service: Service, user: str) -> AsyncIterator[Stream]:
    """A client that reads no more, for which something waits already."""
    async with streaming(service.port, user, receive_buffer=4096) as stream:
        for _ in range(2000):
            service.publish(user, message=BIG)
            await trio.sleep(0.01)
            streams = explain(service, user)["story"]["streams"]
            if streams and streams[-1].get("waiting"):
                break
        yield stream


# Those who got it.


async def test_it_was_taken_by_a_stream_of_another_process(nodes: list[Service]) -> None:
    async with streaming(nodes[1].port, "alice") as stream:
        nodes[0].publish("alice", message="hello")
        event = await stream.event()
        for asked in nodes:  # whichever process answers, also one that gave the message another id
            found = await told(asked, "alice", "taken", event.id)
            assert found["stream"] == stream.connected.json["connection_id"]
        code, text = said(nodes[0], "alice", event.id)
        assert (code, "written to the client at once" in text.splitlines()[0]) == (0, True), text
        answer = explain(nodes[0], "alice", event.id)
        assert len(answer["story"]["messages"][0]["ids"]) == 3, "each process has its own id"
        assert len(answer["asked"]["nodes"]) == 3


async def test_it_was_replayed_to_a_client_that_came_back(nodes: list[Service]) -> None:
    other = nodes[1]
    async with streaming(other.port, "back") as stream:
        other.publish("back", n=1)
        first = await stream.event()
    await eventually(lambda: explain(other, "back")["story"]["streams"][0]["state"] == "ended", "it has left")
    other.publish("back", n=2)
    missed = await last_id(other, "back")
    assert verdict(other, "back")["code"] == "not_connected"
    async with streaming(other.port, "back", headers=[("last-event-id", first.id)]) as stream:
        assert (await stream.notification())["n"] == 2
        assert (await told(other, "back", "replayed", missed))["stream"] == stream.connected.json[
            "connection_id"
        ]
        streams = explain(other, "back")["story"]["streams"]
        assert [one.get("resumed") for one in streams] == [None, first.id]
        assert streams[1]["replayed"] == 1


async def test_it_was_for_everybody(node: Service) -> None:
    async with streaming(node.port, "anyone") as stream:
        node.publish("*", message="all")
        event = await stream.event()
        assert (await told(node, "anyone", "taken", event.id))["code"] == "taken"
        counts = explain(node, None, event.id)["story"]["messages"][0]["message"]["counts"]
        assert counts["taken"] >= 1


async def test_it_waits_for_a_client_that_does_not_read(node: Service) -> None:
    async with stuck(node, "sleepy"):
        await told(node, "sleepy", "waiting")
        stream = explain(node, "sleepy")["story"]["streams"][0]
        assert stream["behind"] > 4096
        assert stream["waiting_since"] <= time.time()
        code, text = said(node, "sleepy")
        assert code == 0
        assert "the client does not take what was written to it" in text
        assert "not acknowledged" in text


async def test_it_waited_and_was_taken_late(node: Service) -> None:
    async with stuck(node, "late") as stream:
        waiting = explain(node, "late")["story"]["messages"][0]["ids"][0]
        events = await stream.until(lambda event: event.id in explain_ids(node, "late", waiting))
        assert events
        assert (await told(node, "late", "waited", waiting))["detail"].endswith(" s")


def explain_ids(service: Service, user: str, id: str) -> list[str]:  # noqa: A002
    ids: list[str] = explain(service, user, id)["story"]["messages"][0]["ids"]
    return ids


# Those who did not.


async def test_it_was_for_another_user(node: Service) -> None:
    async with streaming(node.port, "right"), streaming(node.port, "wrong"):
        node.publish("right", message="not for you")
        id = await last_id(node, "right")  # noqa: A001
        assert verdict(node, "wrong", id)["code"] == "other_user"
        assert said(node, "wrong", id)[0] == 3


async def test_it_was_for_a_topic_that_the_user_does_not_follow(node: Service) -> None:
    async with (
        streaming(node.port, target="/sse?user_id=reader&topic=sports"),
        streaming(node.port, target="/sse?user_id=watcher&topic=news"),
    ):
        node.publish_raw([b'{"topic":"news","message":"x"}'])
        id = await last_id(node, "watcher")  # noqa: A001
        assert (await told(node, "watcher", "taken", id))["code"] == "taken"
        assert verdict(node, "reader", id)["code"] == "not_followed"


async def test_the_user_was_never_connected(node: Service) -> None:
    node.publish("ghost", message="boo")
    found = await told(node, "ghost", "never_connected")
    assert found["at"] <= time.time()
    assert "no stream at all" in said(node, "ghost")[1]


async def test_the_user_had_left_before(node: Service) -> None:
    async with streaming(node.port, "leaver"):
        pass
    await eventually(lambda: explain(node, "leaver")["story"]["streams"][0].get("why") == "left", "it left")
    node.publish("leaver", message="too late")
    assert (await told(node, "leaver", "not_connected"))["detail"] == "left"
    assert "the client left" in said(node, "leaver")[1]


async def test_the_user_came_after_it_and_asked_for_nothing_earlier(node: Service) -> None:
    node.publish("newcomer", message="too early")
    await told(node, "newcomer", "never_connected")
    async with streaming(node.port, "newcomer"):
        found = await told(node, "newcomer", "not_connected")
        assert "detail" not in found
        assert "Its first stream came" in said(node, "newcomer")[1]


async def test_the_client_was_too_slow(node: Service) -> None:
    async with stuck(node, "slow"):
        for _ in range(4):
            node.publish("slow", message="dropped")
        await told(node, "slow", "dropped")
        assert explain(node, "slow")["story"]["streams"][0]["dropped"] >= 2
        assert "SSE_BUFFER messages waited already" in said(node, "slow")[1]


async def test_a_newer_one_of_its_key_came(node: Service) -> None:
    async with stuck(node, "state"):
        node.publish("state", key="price", price=1)
        older = await last_id(node, "state")
        await told(node, "state", "waiting", older)
        node.publish("state", key="price", price=2)
        await told(node, "state", "superseded", older)


async def test_it_had_expired_when_it_came(node: Service) -> None:
    async with streaming(node.port, "punctual"):
        node.publish("punctual", expires_at=time.time() - 1)
        await told(node, "punctual", "expired")


async def test_it_expired_while_the_client_did_not_read(node: Service) -> None:
    async with stuck(node, "perishable"):
        node.publish("perishable", ttl=0.3)
        await told(node, "perishable", "expired")


async def test_it_was_no_message(node: Service) -> None:
    node.publish_raw([b'{"user_id":"broken","message":"x'])
    await eventually(lambda: explain(node, "broken")["story"]["bad"], "it came")
    [bad] = explain(node, "broken")["story"]["bad"]
    assert bad["reason"].startswith("not JSON")
    text = said(node, "broken")[1]
    assert "bad message" in text
    assert '"x' not in text, "what it said is nobody's business"


async def test_no_process_knows_the_id(node: Service) -> None:
    assert verdict(node, "alice", "1795462559402-0")["code"] == "unknown_message"
    assert "no process has seen it" in said(node, "alice", "1795462559402-0")[1]


async def test_an_operator_had_ended_the_stream(nodes: list[Service]) -> None:
    async with streaming(nodes[1].port, "expelled") as stream:
        body = json.dumps({"user_id": "expelled"}).encode()
        answer = nodes[0].get("/disconnect", method="POST", headers=BEARER, body=body)
        assert answer.json["ended"] == 1, answer.body
        assert [event.name for event in await stream.to_the_end()] == ["ended_by_operator"]
    nodes[0].publish("expelled", message="gone")
    await told(nodes[0], "expelled", "ended_by_operator")


# Where the settings are part of the story.


async def test_the_request_was_refused(start: Services) -> None:
    service = start(**JWT)
    old = token(sub="refused", exp=int(time.time()) - 60)
    assert service.get("/sse", headers={"Authorization": f"Bearer {old}"}).status == 401
    service.publish("refused", message="who?")
    found = await told(service, "refused", "refused")
    assert found["detail"] == "401: the token has expired"
    [refusal] = explain(service, "refused")["story"]["refusals"]
    assert refusal["claimed"], "a token that proves nothing says so"
    assert refusal["address"] == "127.0.0.1"
    good = token(sub="refused")
    wrong = service.get("/sse?user_id=boss", headers={"Authorization": f"Bearer {good}"})
    assert wrong.status == 403
    [refusal] = explain(service, "boss")["story"]["refusals"]
    assert refusal["detail"] == "user_id is not the user of the token"


async def test_its_token_expired(start: Services) -> None:
    service = start(**JWT)
    short = token(sub="short", exp=int(time.time()) + 1)
    async with streaming(service.port, headers=[("authorization", f"Bearer {short}")]) as stream:
        await stream.to_the_end()
    service.publish("short", message="x")
    assert (await told(service, "short", "not_connected"))["detail"] == "auth_expired"


async def test_its_token_was_revoked(start: Services) -> None:
    service = start(**JWT)
    key = token(sub="banned", jti="t-1")
    headers = [("authorization", f"Bearer {key}")]
    async with streaming(service.port, headers=headers) as stream:
        body = json.dumps({"jti": "t-1"}).encode()
        assert service.get("/revoke", method="POST", headers=BEARER, body=body).json["ended"] == 1
        assert [event.name for event in await stream.to_the_end()] == ["auth_revoked"]
    assert service.get("/sse", headers=dict(headers)).status == 401
    service.publish("banned", message="x")
    await told(service, "banned", "revoked")


async def test_there_were_too_many_streams(start: Services) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN, SSE_MAX_CONNECTIONS="1")
    async with streaming(service.port, "first"):
        assert service.get("/sse?user_id=second").status == 503
        service.publish("second", message="x")
        assert "SSE_MAX_CONNECTIONS" in (await told(service, "second", "refused"))["detail"]
        async with await connect(service.port) as transport:
            third = Stream(transport)
            await third.request("/sse?user_id=third", [("accept", "text/event-stream")], "1.1")
            assert (await third.event()).name == "overloaded"
        assert "SSE_MAX_CONNECTIONS" in explain(service, "third")["story"]["refusals"][0]["detail"]


@pytest.mark.parametrize("logged", ["false", "true"])
async def test_it_was_cut_off_because_it_took_nothing(start: Services, logged: str) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN, SSE_WRITE_TIMEOUT_SECONDS="1", SSE_LOG_STREAMS=logged)
    async with stuck(service, "frozen"):
        assert "behind" in explain(service, "frozen")["story"]["streams"][0]
        await eventually(
            lambda: explain(service, "frozen")["story"]["streams"][0].get("why") == "write_timeout", "cut off"
        )
        story = explain(service, "frozen")["story"]
        assert story["messages"][0]["verdict"]["code"] in ("unsent", "dropped")


async def test_it_was_ended_because_its_buffer_was_full(start: Services) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN, SSE_SLOW_CLIENT="disconnect", SSE_BUFFER="1")
    async with stuck(service, "choked"):
        for _ in range(5):
            service.publish("choked", message=BIG)
        await eventually(
            lambda: explain(service, "choked")["story"]["streams"][0].get("why") == "slow_client", "ended"
        )


async def test_its_longest_life_was_over(start: Services) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN, SSE_MAX_STREAM_SECONDS="1")
    async with streaming(service.port, "mayfly") as stream:
        await stream.to_the_end()
    service.publish("mayfly", message="x")
    assert (await told(service, "mayfly", "not_connected"))["detail"] == "max_stream_seconds"


async def test_history_no_longer_had_it(start: Services) -> None:
    service = start(SSE_ADMIN_TOKEN=ADMIN, SSE_HISTORY_MESSAGES="1")
    async with streaming(service.port, "forgetful") as stream:
        service.publish("forgetful", n=0)
        first = await stream.event()
    service.publish("forgetful", n=1)
    lost = await last_id(service, "forgetful")
    for n in (2, 3):
        service.publish("forgetful", n=n)
    await eventually(lambda: len(explain(service, "forgetful")["story"]["messages"]) == 4, "they came")
    headers = [("last-event-id", first.id)]
    async with streaming(service.port, "forgetful", headers=headers):
        assert (await told(service, "forgetful", "missing", lost))["detail"] == "history_expired"


async def test_redis_was_away(start: Services) -> None:
    with breakable() as valkey:
        service = start(redis_port=valkey.port, SSE_ADMIN_TOKEN=ADMIN)
        async with streaming(service.port, "patient") as stream:
            valkey.kill()
            await eventually(lambda: explain(service, "patient")["story"]["away"], "it is noticed")
            alone = explain(service, "patient")
            assert "Redis at" in alone["asked"]["problem"], "the others could not be asked, and that is told"
            assert "Redis at" in next(iter(alone["story"]["problems"].values()))
            valkey.start()
            while (await stream.event()).name != "gap":
                pass
            [away] = explain(service, "patient")["story"]["away"]
            assert away["ended"] > away["began"]
            assert verdict(service, "patient", "1795462559402-0")["code"] == "redis_away"
            assert "What was published to a channel then is lost" in said(service, "patient")[1]


async def test_one_that_does_not_answer_is_named(start: Services) -> None:
    settings: dict[str, Any] = {**SETTINGS, "SSE_REDIS_CHANNEL": "silent"}
    one, other = start(**settings), start(**settings)
    wait_for(one, 2)
    other.process.send_signal(signal.SIGSTOP)
    try:
        answer = explain(one, "nobody")
        assert [node["pid"] for node in answer["asked"]["missing"]] == [other.process.pid]
        assert f"process {other.process.pid}" in said(one, "nobody")[1]
    finally:
        other.process.send_signal(signal.SIGCONT)


async def test_with_a_log_all_processes_have_one_id(start: Services, valkey: int) -> None:
    settings: dict[str, Any] = {
        **SETTINGS,
        "SSE_REDIS_STREAM": "explained-log",
        "SSE_REDIS_CHANNEL": "logged",
    }
    one, other = start(**settings), start(**settings)
    wait_for(one, 2)
    async with streaming(other.port, "ledger") as stream:
        with redis.Redis(port=valkey, db=1) as client:
            entry = client.xadd("explained-log", {"payload": '{"user_id":"ledger","n":1}'})
        assert (await stream.event()).id == entry.decode()
        assert (await told(one, "ledger", "taken", entry.decode()))["stream"]
    with redis.Redis(port=valkey, db=1) as client:
        client.delete("explained-log")


async def test_with_a_log_in_partitions_too(start: Services, valkey: int) -> None:
    settings = {
        **SETTINGS,
        "SSE_REDIS_STREAM": "parted",
        "SSE_STREAM_PARTITIONS": "4",
        "SSE_REDIS_CHANNEL": "parted",
    }
    one, other = start(**settings), start(**settings)
    wait_for(one, 2)
    layout = Layout("parted", 4)
    follows = "/sse?user_id=ann&topic=t0&topic=t1&topic=t2&topic=t3"
    with redis.Redis(port=valkey, db=1) as client:

        def publish(**message: object) -> None:
            target = str(message["user_id"]) if "user_id" in message else topic(str(message["topic"]))
            client.xadd(layout.name(layout.of(target)), {"payload": json.dumps(message)})

        async with streaming(other.port, target=follows, receive_buffer=4096) as stream:
            for n in range(4):
                publish(topic=f"t{n}")
                event = await stream.event()
                found = await told(one, "ann", "taken", event.id)
                assert found["stream"] == stream.connected.json["connection_id"]
            [seen] = explain(one, "ann")["story"]["streams"]
            assert (seen["state"], seen["topics"]) == ("live", ["t0", "t1", "t2", "t3"])
            for _ in range(300):
                publish(user_id="ann", message=BIG)
                if "dropped" in explain(one, "ann")["story"]["streams"][0]:
                    break
            await told(one, "ann", "dropped")
            stream.reset()
        await eventually(lambda: explain(one, "ann")["story"]["streams"][0].get("why") == "left", "it left")
        publish(user_id="ann", message="late")
        await told(one, "ann", "not_connected")
        for key in client.scan_iter("parted:*"):
            client.delete(key)
