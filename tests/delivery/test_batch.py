"""Frames that leave together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import batch
from trio_sse.delivery import sse
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.receipts import Receipt

SEQUENCES = st.sets(st.integers(1, 50), min_size=1).map(sorted)


def test_a_batch_is_one_write_in_order() -> None:
    assert batch(3, 4).data == b"data: 3\n\ndata: 4\n\n"
    assert batch(3, 4).first == 3


def test_a_chunk_holds_the_same_bytes() -> None:
    assert batch(3, 4).chunk == sse.chunk(batch(3, 4).data)


def test_what_is_derived_is_made_once_for_all_connections() -> None:
    two = batch(1, 2)
    assert two.data is two.data
    assert two.chunk is two.chunk


@given(SEQUENCES, st.integers(0, 51))
def test_after_gives_what_is_newer_and_nothing_else(sequences: list[int], since: int) -> None:
    newer = [number for number in sequences if number > since]
    rest = batch(*sequences).after(since)
    assert (list(rest.sequences) if rest else []) == newer
    assert (rest.data if rest else b"") == (batch(*newer).data if newer else b"")


def test_after_has_the_receipts_of_its_own_messages_alone() -> None:
    several = Batch([b"1", b"2"], [1, 2], {1: Receipt(), 2: (second := Receipt())})
    later = several.after(1)
    assert later is not None
    assert later.receipts == {2: second}
    only = Batch([b"1", b"2"], [1, 2], {1: Receipt()}).after(1)
    assert only is not None
    assert only.receipts is None


@given(SEQUENCES, SEQUENCES)
def test_what_is_everybody_s_stands_between_a_user_s_own(own: list[int], everybody: list[int]) -> None:
    everybody = [number for number in everybody if number not in own] or [max(own) + 1]
    merged = Batch.merged(batch(*own), batch(*everybody))
    assert merged.sequences == sorted(own + everybody)
    assert merged.data == batch(*merged.sequences).data
    assert (merged.first, merged.last) == (min(merged.sequences), max(merged.sequences))


@given(SEQUENCES, st.integers(1, 5))
def test_what_is_added_is_the_newest(sequences: list[int], times: int) -> None:
    growing = batch(*sequences)
    for _ in range(times):
        number = growing.last + 1
        growing.add(b"data: %d\n\n" % number, number)
    assert growing.data == batch(*growing.sequences).data
    assert len(growing.sequences) == len(sequences) + times


@given(st.integers(0, 1 << 53))
def test_an_unnumbered_frame_is_newer_than_every_position(since: int) -> None:
    frame = Batch.notice(b"x")
    assert frame.first > since
    rest = frame.after(since)
    assert rest is not None
    assert rest.data == b"x"
