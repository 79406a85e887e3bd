"""Messages into one Redis by a script: see test_publisher.py too, which sends by way of it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from trio_sse.broker import sender


@given(stream=st.text("{}ab", min_size=1, max_size=6))
@example(stream="notes")
@example(stream="{a")
def test_a_key_has_the_slot_of_the_stream(stream: str) -> None:
    key = sender.idempotency_key(stream, "token key", sender.hash_tag(stream))
    there = key_slot(key.encode()) == key_slot(stream.encode())
    assert there or "}" in stream  # "{}" and "a}b" are no part of any key with more to it
