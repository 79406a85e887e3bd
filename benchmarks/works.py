"""What is measured: the works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """`rate`: messages/s published in all (0: as fast as they are taken); `seconds`: (full, quick) length.

    `count`: messages in all, instead of rate x seconds. `pad`: bytes of padding in each message.
    `needs`: what a service must be able to do (`Service.can`). `about`: seconds for a service, (full, quick).
    """

    name: str
    title: str
    kind: str
    conns: int
    users: int = 1
    rate: int = 0
    count: int = 0
    pad: int = 0
    seconds: tuple[float, float] = (8, 2)
    needs: frozenset[str] = frozenset()
    about: tuple[int, int] = (14, 6)

    @property
    def tls(self) -> bool:
        return "tls" in self.needs


def _fan(rate: int, conns: int) -> Work:
    title = f"fan-out: {rate:,} messages/s to {conns:,} connections of one user"
    return Work(f"fan-{rate}x{conns}", title, "deliver", conns, rate=rate)


TLS = frozenset({"tls"})
WORKS = (
    _fan(150, 1000),
    _fan(500, 1000),
    _fan(2000, 1000),
    _fan(10000, 1000),
    _fan(500, 8000),
    Work("each-20000", "20,000 messages/s to 1,000 users, one connection each", "deliver", 1000, 1000, 20000),
    Work(
        "burst-20000",
        "20,000 messages at once to 1,000 users, one connection each",
        "deliver",
        1000,
        1000,
        0,
        20000,
    ),
    Work(
        "each-max",
        "the highest rate to 1,000 users, one connection each, with p99 below 50 ms and nothing lost",
        "max",
        1000,
        1000,
        20000,
        seconds=(5, 2),
        about=(100, 40),
    ),
    Work("idle", "8,000 idle connections", "idle", 8000, about=(22, 18)),
    Work(
        "tokens",
        "8,000 connections, each with an HS256 token of its own, and without",
        "tokens",
        8000,
        needs=frozenset({"tokens"}),
        about=(18, 18),
    ),
    Work("tls-idle", "4,000 idle connections over TLS", "idle", 4000, needs=TLS, about=(40, 36)),
    Work(
        "tls-fan-500x1000",
        "fan-out over TLS: 500 messages/s to 1,000 connections of one user",
        "deliver",
        1000,
        rate=500,
        needs=TLS,
    ),
    Work(
        "storm",
        "10,000 clients are cut, miss 10 messages each, and come back within a second",
        "storm",
        10000,
        10000,
        about=(50, 30),
    ),
    Work(
        "slow",
        "999 readers, with and without one client that never reads (5 messages/s of 8 KB)",
        "slow",
        999,
        rate=5,
        pad=8192,
        seconds=(12, 6),
        about=(36, 22),
    ),
)
