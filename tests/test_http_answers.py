"""What other HTTP servers answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from trio_sse.http_answers import body_of, told


async def parts() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"abc"


@pytest.mark.parametrize(("most", "body"), [(100, b"abcabcabc"), (9, b"abcabcabc"), (8, None), (0, None)])
async def test_it_is_read_up_to_a_bound(most: int, body: bytes | None) -> None:
    assert await body_of(httpx.Response(200, content=parts()), most) == body


def test_an_error_is_one_line() -> None:
    assert told(ValueError("one\n two")) == "one two"
    assert told(ValueError()) == "ValueError"
