"""What a connection is given before it is live."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_sse.delivery.due import Due
from trio_sse.delivery.history import PAGE_BYTES
from trio_sse.delivery.replay import Replay


@given(st.lists(st.integers(1, 3 * PAGE_BYTES), max_size=10), st.integers(0, 1000))
def test_pages_are_whole_frames_in_order_and_the_last_is_not_full(sizes: list[int], preface: int) -> None:
    older = [bytes([number]) * size for number, size in enumerate(sizes)]
    replay = Replay(b"p" * preface, older, None, None, Due(), b"behind")
    pages = [replay.page()]
    while len(pages[-1]) >= PAGE_BYTES:
        pages.append(replay.page())
    assert b"".join(pages) == b"p" * preface + b"".join(older) + b"behind"
    assert replay.page() == b""
    assert all(len(page) < PAGE_BYTES + max(*sizes, 6) for page in pages[:-1])
