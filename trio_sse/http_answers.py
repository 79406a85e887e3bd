"""What other HTTP servers answer: bounded, and errors in a line."""

from __future__ import annotations

import httpx
import trio


async def body_of(response: httpx.Response, most: int) -> bytes | None:
    """The body of a response that is read as a stream, as it was sent. None: it has more than `most` bytes.
    It has no time limit of its own."""
    body = bytearray()
    # Cancelled, not left by `break`: httpx reads through several generators, and Trio needs all of them to
    # end.
    with trio.CancelScope() as reading:
        async for part in response.aiter_raw():
            body += part
            if len(body) > most:
                reading.cancel()
    return bytes(body) if len(body) <= most else None


def told(error: Exception) -> str:
    """An error as a part of a line."""
    return " ".join(str(error).split()) or type(error).__name__
