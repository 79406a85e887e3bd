"""Messages as entries of partitions, in a real Redis: the commands that add them, and what their ids say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import redis
from redis.crc import key_slot

from tests.support.inside import note, settings
from tests.support.log import DATABASE
from trio_sse.broker import entries as module
from trio_sse.broker.entries import Entries
from trio_sse.broker.post import Order
from trio_sse.delivery.notices import GAP
from trio_sse.delivery.partitions import Layout, parse_place
from trio_sse.delivery.targets import topic

EIGHT = Layout("parts", 8)


@pytest.fixture
def entries() -> Entries:
    return Entries(settings(redis_stream="parts", stream_partitions=8, redis_stream_before="old/4"))


@pytest.fixture
def client(valkey: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey, db=DATABASE + 1) as found:
        found.flushdb()
        yield found


def given(client: redis.Redis, order: Order) -> bytes:
    return cast(bytes, cast(Any, client).execute_command(*order.command))


def added(client: redis.Redis, key: bytes) -> list[bytes]:
    found: Any = client.xrange(key)
    return [fields[b"payload"] for _, fields in found]


def test_a_message_is_one_entry_in_each_partition_of_its_targets(entries: Entries) -> None:
    one, other = EIGHT.of("ann"), EIGHT.of(topic("news"))
    assert one != other
    message = note("ann", topics=["news"])
    keys = [f"parts:{{{one}}}".encode(), f"parts:{{{other}}}".encode()]
    assert entries.copies(message, b"{}") == [(key, b"{}") for key in keys]
    assert entries.numbers(message) == [one, other]
    assert len(entries.copies(note(), b"{}")) == 8
    assert len(list(entries.gaps())) == 8


def test_its_id_is_the_place_behind_it_in_each_of_them(entries: Entries) -> None:
    text = entries.place([5, 2], ["1795462559402-0", "1795462559402-3"])
    place = parse_place(text)
    assert place is not None
    assert place.published
    assert {(one.of, one.number): entry for one, entry in place.parts.items()} == {
        (8, 5): (1795462559402, 0),
        (8, 2): (1795462559402, 3),
    }


def test_what_adds_an_entry_bounds_the_partition(client: redis.Redis) -> None:
    entries = Entries(settings(redis_stream="parts", stream_partitions=8, stream_length=1))
    for number in range(300):
        given(client, entries.order((b"parts:{0}", b"%d" % number)))
    assert added(client, b"parts:{0}")[-1] == b"299"
    assert client.xlen("parts:{0}") < 300


def test_what_is_to_be_added_once_is_added_once(entries: Entries, client: redis.Redis) -> None:
    key = b"parts:{3}"
    order = entries.once(key, [b"1", b"2"], "order-17", "f")
    first = given(client, order)
    assert given(client, order) == first
    assert added(client, key) == [b"1", b"2"]
    was, *ids = first.decode().split()
    assert was == "f"
    assert ids == [entry.decode() for entry, _ in cast(Any, client.xrange(key))]
    given(client, entries.once(key, [b"1", b"2"], "order-18", "f"))
    assert len(added(client, key)) == 4
    assert given(client, entries.once(key, [b"3"], "order-17", "other")) == first


def test_what_could_not_be_added_may_be_tried_again(entries: Entries, client: redis.Redis) -> None:
    key = b"parts:{3}"
    client.set(key, "no stream")
    order = entries.once(key, [b"1"], "order-17", "f")
    routed = entries.routed((key, b"1"), "once", (5, 0))
    for one in (order, routed):
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            given(client, one)
    client.delete(key)
    assert given(client, order)
    assert given(client, routed)
    assert added(client, key) == [b"1", b"1"]


def test_an_entry_of_another_log_is_added_once(
    entries: Entries, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUTED", 3)
    key = b"parts:{3}"
    for number in (1, 2, 1, 3, 2, 10):
        given(client, entries.routed((key, b"%d" % number), f"copy-{number}", (number, 0)))
    assert added(client, key) == [b"1", b"2", b"3", b"10"]
    (known,) = cast(Any, client.keys("trio_sse:routed:*"))
    assert client.zrange(known, 0, -1) == [b"copy-2", b"copy-3", b"copy-10"]
    other = Entries(settings(redis_stream="other", stream_partitions=8))
    given(client, other.routed((b"other:{3}", b"1"), "copy-2", (2, 0)))
    assert added(client, b"other:{3}") == [b"1"]


@pytest.mark.parametrize("key", [b"parts:{3}", b"parts:{1023}"])
def test_all_that_a_script_uses_is_in_the_slot_of_the_partition(entries: Entries, key: bytes) -> None:
    for order in (entries.once(key, [b"1"], "k", "f"), entries.routed((key, b"1"), "once", (5, 0))):
        name, script, count, *keys = order.command[:5]
        assert (name, count, keys[0]) == ("EVAL", 2, key)
        assert isinstance(script, bytes)
        assert key_slot(str(keys[1]).encode()) == key_slot(key)


def test_a_gap_is_an_entry_too(entries: Entries, client: redis.Redis) -> None:
    for order in entries.gaps():
        given(client, order)
    assert [added(client, EIGHT.name(number).encode()) for number in range(8)] == [[GAP]] * 8
