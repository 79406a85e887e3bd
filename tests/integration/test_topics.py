"""Streams that follow topics: once and in order, resumed over all they follow, and where a page begins."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
import trio

from tests.support.client import Event, Stream, connect, eventually, streaming
from tests.support.process import Service, Services
from tests.support.tokens import SECRET, token
from tests.support.variants import COMMANDS, TRIO_SSE, Variant

pytestmark = pytest.mark.integration

BIG = "x" * 20_000
PUBLISH_TOKEN = "a-publish-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {PUBLISH_TOKEN}"}
commands = pytest.mark.parametrize("variant", COMMANDS, ids=str)


def tell(service: Service, *messages: dict[str, Any]) -> None:
    """Publish to the channel."""
    service.publish_raw([json.dumps(message).encode() for message in messages])


def total(service: Service, name: str) -> int:
    return int(service.get("/readyz").json["totals"][name])


async def keep(service: Service, *messages: dict[str, Any]) -> None:
    """Publish to the channel, and wait until the service has all of them."""
    before = total(service, "published")
    tell(service, *messages)
    await eventually(lambda: total(service, "published") == before + len(messages), "all are here")


def flow(name: str, count: int) -> list[dict[str, Any]]:
    """Numbered messages that reach whoever follows the user `name` and the topics `name`/a and `name`/b: some
    in several ways, and between them some that do not."""
    ways: list[dict[str, Any]] = [
        {"user_id": name},
        {"topic": f"{name}/a"},
        {"topic": [f"{name}/b", f"{name}/a"], "user_id": [name, "somebody else"]},
        {"user_id": "*"},
        {"topic": [f"{name}/b", f"{name}/c"]},
    ]
    messages = []
    for n in range(count):
        messages += [{**ways[n % len(ways)], "n": n}, {"topic": f"{name}/c", "n": -1}]
    return messages


def all_of(name: str) -> str:
    return f"/sse?user_id={name}&topic={name}/a&topic={name}/b"


async def test_several_topics_each_message_once_and_in_order(served: Service) -> None:
    async with streaming(served.port, target=all_of("several")) as stream:
        assert stream.connected.json["user_id"] == "several"
        assert stream.connected.json["topics"] == ["several/a", "several/b"]
        messages = flow("several", 200)
        for first in range(0, 200, 10):  # as many as have room, however late the client is
            tell(served, *messages[2 * first : 2 * first + 20])
            assert await stream.numbers(10) == list(range(first, first + 10))


async def test_a_topic_and_a_user_of_one_name_are_two_things(served: Service) -> None:
    async with (
        streaming(served.port, target="/sse?topic=twin") as of_topic,
        streaming(served.port, "twin") as of_user,
    ):
        assert "user_id" not in of_topic.connected.json
        assert "topics" not in of_user.connected.json
        for n, message in enumerate([{"topic": "twin"}, {"user_id": "twin"}, {"user_id": "*"}]):
            tell(served, {**message, "n": n})
        assert await of_topic.numbers(2) == [0, 2]
        assert await of_user.numbers(2) == [1, 2]


async def test_one_who_comes_back_with_one_topic_more_gets_what_came_on_it_too(served: Service) -> None:
    async with streaming(served.port, target="/sse?user_id=more&topic=more/a") as stream:
        place = stream.connected.id
    await keep(served, *flow("more", 40))
    back = [("last-event-id", place)]
    async with streaming(served.port, target=all_of("more"), headers=back) as stream:
        assert stream.connected.json["replayed"] == 40
        tell(served, {"topic": "more/b", "n": 40})
        assert await stream.numbers(41) == list(range(41))


@commands
async def test_a_replay_from_the_redis_stream_merges_all_that_is_followed(
    start: Services, variant: Variant, valkey: int
) -> None:
    """Read by a process that saw nothing of it, from memory and, where that is small, from Redis."""
    key = f"topics-{variant}"
    messages = flow("log", 100)
    with redis.Redis(port=valkey, db=1) as back_end:
        place = back_end.xadd(key, {"payload": json.dumps({"topic": "log/a", "n": -1})}).decode()
        for message in messages:
            back_end.xadd(key, {"payload": json.dumps(message)})
        memory = start(variant, SSE_REDIS_STREAM=key)
        redis_alone = start(variant, SSE_REDIS_STREAM=key, SSE_HISTORY_MESSAGES="2")
        for service in (memory, redis_alone):
            target = f"{all_of('log')}&last_event_id={place}"
            async with streaming(service.port, target=target) as stream:
                assert stream.connected.json["replayed"] == 100
                assert await stream.numbers(100) == list(range(100))


@commands
async def test_the_redis_stream_and_the_channel_reach_a_stream_in_order(
    start: Services, variant: Variant, valkey: int
) -> None:
    key = f"both-{variant}"
    service = start(variant, SSE_REDIS_STREAM=key)
    received = []
    with redis.Redis(port=valkey, db=1) as back_end:
        async with streaming(service.port, target=all_of("both")) as stream:
            for n, message in enumerate(flow("both", 20)[::2]):
                if n % 3:
                    tell(service, message)
                else:
                    back_end.xadd(key, {"payload": json.dumps(message)})
                received.append(await stream.event())
        assert [event.json["n"] for event in received] == list(range(20))
        headers = [("last-event-id", received[4].id)]
        async with streaming(service.port, target=all_of("both"), headers=headers) as stream:
            assert await stream.numbers(15) == list(range(5, 20))


@commands
async def test_a_token_says_which_topics(start: Services, variant: Variant) -> None:
    service = start(
        variant,
        SSE_AUTH="jwt",
        SSE_JWT_SECRET=SECRET,
        SSE_PUBLIC_TOPICS="news,public/*",
    )

    def bearer(**claims: Any) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {token(**claims)}")]

    def refused(query: str, **claims: Any) -> tuple[int, str]:
        answer = service.get(f"/sse?{query}", headers=dict(bearer(**claims)) if claims else {})
        return answer.status, answer.json["detail"]

    granted = ["orders/*", "chat/**", "prices", "badge"]
    for topic in ("orders", "orders/", "orders/17/items", "chat", "chat/", "Prices", "other"):
        status, detail = refused(f"topic=prices&topic={topic}", topics=granted)
        assert (status, repr(topic) in detail) == (403, True), detail
    assert refused("topic=orders/*", topics=granted)[0] == 400
    assert refused("user_id=ben&topic=prices", topics=granted)[0] == 403
    assert refused("topic=prices")[0] == 401
    assert refused("topic=news&topic=prices")[0] == 401
    for wrong in (["orders*"], ["**/x"], "", [], {"orders": 1}, 5, None):
        assert refused("topic=orders/17", topics=wrong)[0] == 403, wrong
    for target, headers, topics, user in (
        ("/sse", bearer(topics=granted), ["badge", "prices"], "ann"),
        ("/sse?topic=orders/17&topic=chat/a/b", bearer(topics=granted), ["chat/a/b", "orders/17"], "ann"),
        ("/sse?topic=orders/17", bearer(topics="orders/*", sub=None), ["orders/17"], None),
        ("/sse?topic=news&topic=public/x", [], ["news", "public/x"], None),
    ):
        async with streaming(service.port, target=target, headers=headers) as stream:
            assert stream.connected.json["topics"] == topics
            assert stream.connected.json.get("user_id") == user
            tell(service, {"topic": "other", "n": -1}, {"topic": topics[-1], "n": 1})
            assert await stream.numbers(1) == [1]


@commands
async def test_a_token_to_publish_may_be_for_some_topics_alone(start: Services, variant: Variant) -> None:
    service = start(variant, SSE_PUBLISH_TOKENS=f"{PUBLISH_TOKEN}=orders/**")

    def status(*messages: dict[str, Any]) -> int:
        body = json.dumps(messages).encode()
        return service.get("/publish", method="POST", headers=BEARER, body=body).status

    async with streaming(service.port, target="/sse?user_id=1&topic=orders/1&topic=news") as stream:
        good = {"topic": "orders/1", "n": 0}
        for bad in (
            {"topic": "news"},
            {"topic": ["orders/1", "news"]},
            {"topic": "orders/1", "user_id": 1},
            {"user_id": "*"},
        ):
            assert await trio.to_thread.run_sync(status, good, bad) == 403, bad
        assert await trio.to_thread.run_sync(status, good, {"topic": "orders/1/items"}) == 200
        assert await stream.numbers(1) == [0], "of what was refused nothing was published"
        assert total(service, "published") == 2


@commands
@pytest.mark.parametrize("has_log", [False, True], ids=["channel", "stream"])
async def test_a_page_misses_nothing_after_the_position_it_was_rendered_with(
    start: Services, variant: Variant, has_log: bool
) -> None:
    stream_key = f"position-{variant}" if has_log else None
    service = start(variant, SSE_PUBLISH_TOKENS=PUBLISH_TOKEN, SSE_REDIS_STREAM=stream_key)

    def publish(*messages: dict[str, Any]) -> list[str]:
        body = json.dumps(messages).encode()
        answer = service.get("/publish", method="POST", headers=BEARER, body=body)
        return [message["id"] for message in answer.json["messages"]]

    def position() -> str:
        return str(service.get("/position", headers=BEARER).json["position"])

    assert service.get("/position").status == 401
    places = [await trio.to_thread.run_sync(position)]
    places += await trio.to_thread.run_sync(publish, *flow("page", 9)[::2])
    places.append(await trio.to_thread.run_sync(position))
    await trio.to_thread.run_sync(publish, {"topic": "page/b", "n": 9})
    for place, after in zip(places, [*range(10), 9], strict=True):
        async with streaming(service.port, target=f"{all_of('page')}&last_event_id={place}") as stream:
            assert await stream.numbers(10 - after) == list(range(after, 10))


@commands
async def test_the_last_id_in_redis_is_a_position_too(start: Services, variant: Variant, valkey: int) -> None:
    key = f"xinfo-{variant}"
    service = start(variant, SSE_REDIS_STREAM=key)
    with redis.Redis(port=valkey, db=1) as back_end:
        back_end.xadd(key, {"payload": json.dumps({"topic": "t", "n": 0})})
        for n in range(1, 4):
            place = back_end.xinfo_stream(key)["last-generated-id"].decode()
            back_end.xadd(key, {"payload": json.dumps({"topic": "t", "n": n})})
            async with streaming(service.port, target=f"/sse?topic=t&last_event_id={place}") as stream:
                assert await stream.numbers(1) == [n]


async def test_a_stream_begins_with_its_last_messages(served: Service) -> None:
    await keep(served, *flow("rewind", 30))
    async with streaming(served.port, target=f"{all_of('rewind')}&rewind=12") as stream:
        assert stream.connected.json["replayed"] == 12
        tell(served, {"topic": "rewind/a", "n": 30})
        events = [await stream.event() for _ in range(13)]
        assert [event.json["n"] for event in events] == list(range(18, 31))
    # A browser repeats the query of its first request. Its last id counts.
    headers = [("last-event-id", events[-2].id)]
    async with streaming(served.port, target=f"{all_of('rewind')}&rewind=12", headers=headers) as stream:
        assert await stream.numbers(1) == [30]


@commands
@pytest.mark.parametrize("has_log", [False, True], ids=["channel", "stream"])
async def test_a_stream_begins_with_what_came_since(
    start: Services, variant: Variant, has_log: bool, valkey: int
) -> None:
    key = f"since-{variant}"
    service = start(variant, SSE_REDIS_STREAM=key if has_log else None)
    with redis.Redis(port=valkey, db=1) as back_end:

        def publish(n: int) -> None:
            if has_log:
                back_end.xadd(key, {"payload": json.dumps({"topic": "t", "n": n})})
            else:
                tell(service, {"topic": "t", "n": n})

        await trio.sleep(0.3)
        for n in range(3):
            publish(n)
        await eventually(lambda: total(service, "published") == 3, "all are kept")
        await trio.sleep(1.2)
        publish(3)
        await eventually(lambda: total(service, "published") == 4, "all are kept")
    async with streaming(service.port, target="/sse?topic=t&since=0.8") as stream:
        assert stream.connected.json["replayed"] == 1
        assert await stream.numbers(1) == [3]
    then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    async with streaming(service.port, target=f"/sse?topic=t&since={then}") as stream:
        assert stream.connected.json["replayed"] == 4
        if not has_log:
            gap = await stream.event()
            assert (gap.name, gap.json["reason"]) == ("gap", "history_expired")
        assert await stream.numbers(4) == [0, 1, 2, 3]


@commands
async def test_since_before_what_was_trimmed_away_is_told(
    start: Services, variant: Variant, valkey: int
) -> None:
    key = f"trimmed-{variant}"
    with redis.Redis(port=valkey, db=1) as back_end:
        for n in range(5):
            back_end.xadd(key, {"payload": json.dumps({"topic": "t", "n": n})}, maxlen=3, approximate=False)
    service = start(variant, SSE_REDIS_STREAM=key)
    async with streaming(service.port, target="/sse?topic=t&since=3600") as stream:
        gap = await stream.event()
        assert (gap.name, gap.json["reason"]) == ("gap", "history_expired")
        assert await stream.numbers(3) == [2, 3, 4]


async def test_a_stream_begins_with_the_newest_of_each_key(served: Service) -> None:
    await keep(
        served,
        {"topic": "board/a", "key": "x", "n": 0},
        {"topic": "board/a", "key": "y", "n": 1},
        {"topic": "board/b", "key": "x", "n": 2},
        {"topic": "board/a", "key": "x", "n": 3},
        {"topic": "board/a", "n": 4},
        {"topic": "board/a", "key": "z", "n": 5},
        {"topic": "board/a", "key": "z", "message": None},
        {"topic": "board/a", "key": "late", "ttl": 0.01, "n": 6},
        {"topic": "board/c", "key": "x", "n": 7},
    )
    await trio.sleep(0.1)
    target = "/sse?topic=board/a&topic=board/b&snapshot=true"
    async with streaming(served.port, target=target) as stream:
        events = [await stream.event() for _ in range(4)]
        assert [event.name for event in events] == ["message"] * 3 + ["snapshot"]
        assert [event.json["n"] for event in events[:3]] == [1, 2, 3]
        assert [event.id for event in (stream.connected, *events[:3])] == [""] * 4, "whole or not at all"
        assert events[3].json == {"keys": 3}
        place = events[3].id
        tell(served, {"topic": "board/a", "key": "x", "n": 8})
        assert await stream.numbers(1) == [8]
    headers = [("last-event-id", place)]
    async with streaming(served.port, target=target, headers=headers) as stream:
        assert await stream.numbers(1) == [8]


async def test_a_snapshot_that_was_cut_off_begins_anew(served: Service) -> None:
    keys = 150
    await keep(served, *({"topic": "cut", "key": f"k{n}", "n": n, "big": BIG} for n in range(keys)))
    target = "/sse?topic=cut&snapshot=true"
    async with await connect(served.port, receive_buffer=4096) as transport:
        cut = Stream(transport)
        await cut.request(target, (), "1.1")
        events = [await cut.event() for _ in range(keys // 2)]
        assert {event.id for event in events} == {""}, "it has nothing to come back with"
        await keep(served, {"topic": "cut", "key": "k0", "n": keys})
        cut.reset()
    async with streaming(served.port, target=target) as stream:
        assert await stream.numbers(keys) == list(range(1, keys + 1))
        assert (await stream.event()).json == {"keys": keys}


@commands
async def test_with_the_redis_stream_a_new_process_has_the_newest_too(
    start: Services, variant: Variant, valkey: int
) -> None:
    key = f"newest-{variant}"
    with redis.Redis(port=valkey, db=1) as back_end:
        for n in range(30):
            payload = {"topic": "t", "key": f"k{n % 3}", "n": n}
            back_end.xadd(key, {"payload": json.dumps(payload)})
    service = start(variant, SSE_REDIS_STREAM=key)
    async with streaming(service.port, target="/sse?topic=t&snapshot=true") as stream:
        assert await stream.numbers(3) == [27, 28, 29]
        assert (await stream.event()).json == {"keys": 3}
    other = start(variant)
    async with streaming(other.port, target="/sse?topic=t&snapshot=true") as stream:
        assert (await stream.event()).json == {"keys": 0}


async def test_a_slow_client_ends_with_the_newest_of_each_key(served: Service) -> None:
    keys, rounds = 20, 40
    before = total(served, "superseded"), total(served, "dropped")
    target = "/sse?user_id=gauge&topic=gauge"
    async with (
        streaming(served.port, target=target, receive_buffer=4096) as slow,
        streaming(served.port, target=target) as quick,
    ):
        for turn in range(rounds):
            numbered = range(turn * keys, (turn + 1) * keys)
            tell(served, *({"topic": "gauge", "key": f"k{n % keys}", "n": n, "big": BIG} for n in numbered))
            while (await quick.notification())["n"] != numbered[-1]:
                pass
        tell(served, {"topic": "gauge", "n": -1})
        events = await slow.until(lambda event: event.name == "message" and event.json["n"] == -1)
        seen = [event.json["n"] for event in events if event.name == "message"][:-1]
        assert seen == sorted(set(seen)), "in order, each once"
        assert seen[-keys:] == list(range((rounds - 1) * keys, rounds * keys))
        assert len(seen) < rounds * keys
        assert not [event for event in events if event.name == "gap"]
    superseded, dropped = total(served, "superseded"), total(served, "dropped")
    assert superseded - before[0] >= rounds * keys - len(seen)
    assert dropped == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("has_log", [False, True], ids=["channel", "stream"])
async def test_coming_back_again_and_again_to_several_topics(
    start: Services, has_log: bool, valkey: int
) -> None:
    """Each number once and in order, however the stream is cut while messages are published."""
    count, key = 3000, "again"
    service = start(TRIO_SSE, SSE_REDIS_STREAM=key if has_log else None)
    messages = flow("again", count)
    received: list[int] = []
    place = ""

    def publish() -> None:
        with redis.Redis(port=valkey, db=1) as back_end:
            for first in range(0, len(messages), 50):
                if has_log:
                    pipeline = back_end.pipeline(transaction=False)
                    for message in messages[first : first + 50]:
                        pipeline.xadd(key, {"payload": json.dumps(message)})
                    pipeline.execute()
                else:
                    tell(service, *messages[first : first + 50])

    async def until_cut(stream: Stream, events: int) -> None:
        nonlocal place
        for _ in range(events):
            event: Event = await stream.event()
            assert event.name in ("message", "heartbeat"), event
            if event.name == "message":
                received.append(event.json["n"])
            place = event.id
            if len(received) == count:
                return

    async with streaming(service.port, target=all_of("again")) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, publish)
        await until_cut(stream, 7)
        for turn in range(100_000):
            if len(received) == count:
                break
            headers = [("last-event-id", place)]
            async with streaming(service.port, target=all_of("again"), headers=headers) as again:
                await until_cut(again, 13 * turn % 211)
    assert received == list(range(count))
