"""Requests and payloads that nobody honest would send, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import trio

from tests.support.client import connect, linger_none

Leaving = Literal["close", "reset", "half", "read"]

GET_SSE = b"GET /sse?user_id=x HTTP/1.1\r\nHost: x\r\n\r\n"
GET_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CHUNKED = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2C = (
    b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)
FRAMES = (
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # SETTINGS
    b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # WINDOW_UPDATE by 0
)

# Each is sent part by part, so that a later part arrives while an earlier one is being answered.
REQUESTS: tuple[tuple[bytes, ...], ...] = (
    (CHUNKED, b"zz\r\n"),  # what kills Hypercorn's Trio worker: pgjones/hypercorn#203
    (CHUNKED + b"zz\r\n",),
    (CHUNKED, b"5\r\nabc", b"zz\r\n"),
    (CHUNKED.replace(b"/x", b"/sse"), b"zz\r\n"),
    (CHUNKED.replace(b"POST /x", b"GET /sse"), b"zz\r\n"),
    (CHUNKED, b"ffffffffffffffffffff\r\n"),
    (CHUNKED.replace(b"chunked", b"gzip, chunked"), b"0\r\n\r\n"),
    (GET_SSE, b"zz\r\n", GET_HEALTH),
    (GET_SSE + GET_SSE + GET_HEALTH,),
    (GET_HEALTH * 20,),
    (GET_HEALTH + GET_SSE, GET_HEALTH),
    (GET_HEALTH, b"\0" * 100),
    (GET_SSE.replace(b"\r\n", b"\n"),),
    (GET_SSE.replace(b"\r\n", b"\r"),),
    (GET_SSE.replace(b"1.1", b"1.0"),),
    (GET_SSE.replace(b"1.1", b"2.0"),),
    (GET_SSE.replace(b"1.1", b"9.9"),),
    (GET_SSE.replace(b"HTTP/1.1", b"ICAP/1.0"),),
    (GET_SSE.replace(b"Host: x\r\n", b""),),
    (GET_SSE.replace(b"Host: x", b"Host: x\r\nHost: y"),),
    (GET_SSE.replace(b"Host: x", b"Host : x"),),
    (GET_SSE.replace(b"Host: x", b"Host: x\r\n folded: y"),),
    (GET_SSE.replace(b"Host: x", b"H\0st: x"),),
    (GET_SSE.replace(b"Host: x", b"Host: \0\xff"),),
    (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET\t/sse\tHTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET http://x/sse?user_id=x HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET http://[x HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET //x/sse HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET /sse?user_id=%00%0d%0aid:1 HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET /sse?user_id=\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET /sse?" + b"a=b&" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET /%2e%2e/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"),
    (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"g\xc3\xa9t / HTTP/1.1\r\nHost: x\r\n\r\n",),
    (b"HEAD /sse HTTP/1.1\r\nHost: x\r\n\r\n" + GET_HEALTH,),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",),
    (b"GET /" + b"x" * 70_000,),
    (b"GET /sse HTTP/1.1\r\nHost: x\r\nLast-Event-ID: " + b"\xff" * 5000 + b"\r\n\r\n",),
    (b"GET /sse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"ab"),
    (b"GET /sse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",),
    (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",),
    (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", b"abc"),
    (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"),
    (b"POST /sse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"ab"),
    (b"GET /sse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",),
    (b"GET /sse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"abc"),
    (b"GET /sse HTTP/1.1\r\n" + UPGRADE, b"\x81\x85garbage"),
    (b"GET / HTTP/1.1\r\n" + UPGRADE, b"\xff\xff\xff\xff"),
    (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(b"13", b"99"),),
    (b"GET / HTTP/1.1\r\n" + UPGRADE.replace(b"Sec-WebSocket-Key: ", b"X: "),),
    (b"GET /sse HTTP/1.1\r\n" + H2C, PREFACE, b"\xff" * 50),
    (b"GET /healthz HTTP/1.1\r\n" + H2C, PREFACE + FRAMES),
    (PREFACE, b"\x00\xff" * 50),
    (PREFACE + FRAMES,),
    (PREFACE[:10],),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),),  # a TLS hello
    (b"\r\n\r\n" + GET_SSE,),
    (b"\0",),
    (b"",),
)


@dataclass(frozen=True)
class Attack:
    parts: tuple[bytes, ...]
    leaving: Leaving


def attacks(seed: int, count: int) -> Iterator[Attack]:
    """The listed requests, whole, cut off anywhere or with bytes changed, and left in every way."""
    chance = random.Random(seed)
    leavings: tuple[Leaving, ...] = ("close", "reset", "half", "read")
    for number in range(count):
        parts = REQUESTS[number % len(REQUESTS)]
        if number >= 2 * len(REQUESTS):
            match chance.randrange(4):
                case 0:
                    parts = (*parts[:-1], parts[-1][: chance.randrange(len(parts[-1]) + 1)])
                case 1:
                    parts = (*parts[:-1], _noisy(parts[-1], chance))
                case 2:
                    parts = (chance.randbytes(chance.randrange(1, 300)),)
                case _:
                    pass
        yield Attack(parts, chance.choice(leavings))


def _noisy(data: bytes, chance: random.Random) -> bytes:
    noisy = bytearray(data)
    for _ in range(min(len(noisy), 3)):
        noisy[chance.randrange(len(noisy))] = chance.randrange(256)
    return bytes(noisy)


async def launch(port: int, attack: Attack) -> None:
    """Send the parts, look for an answer for a moment, and leave."""
    stream = await connect(port)
    async with stream:
        try:
            for part in attack.parts:
                await stream.send_all(part)
                await trio.lowlevel.checkpoint()
            if attack.leaving == "half":
                await stream.send_eof()
            if attack.leaving in ("half", "read"):
                with trio.move_on_after(0.05):
                    while await stream.receive_some(65536):
                        pass
        except trio.BrokenResourceError:
            pass  # thrown out, rightly
        if attack.leaving == "reset":
            linger_none(stream.socket)


def payloads(seed: int, count: int) -> Iterator[bytes]:
    """What may not be published, or only looks as if it might."""
    chance = random.Random(seed)
    bad: list[bytes] = [
        b"",
        b"\0",
        b"null",
        b"1",
        b'"text"',
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"user_id":1,"message":"\xff"}',
        b'{"user_id":1,"message":"cut',
        b'{"user_id":1}{"user_id":1}',
        b'{"user_id":1,}',
        b"{'user_id':1}",
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"user_id":1,"m":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"user_id":1,"message":"' + b"x" * 70_000 + b'"}',
        b'{"user_id":NaN}',
        b'{"user_id":1e999}',
    ]
    user_ids: list[object] = [
        None,
        True,
        1.5,
        [],
        {},
        [[]],
        [None],
        "",
        " \r\n",
        "a\r\nid: 1",
        "\0",
        "x" * 129,
        ["x", ""],
    ]
    events = ("gap", "connected", "heartbeat", "open", "error")
    bad += [json.dumps({"user_id": user_id, "message": "hostile"}).encode() for user_id in user_ids]
    bad += [json.dumps({"user_id": "hostile", "event": event}).encode() for event in events]
    for number in range(count):
        payload = bad[number % len(bad)]
        if number >= len(bad) and chance.randrange(2):
            payload = (
                chance.randbytes(chance.randrange(100)) if len(payload) > 1000 else _noisy(payload, chance)
            )
        yield payload
