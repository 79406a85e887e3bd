"""What is measured: the works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """`rate`: messages/s published in all (0: as fast as they are taken); `seconds`: (full, quick) length.

    `count`: messages in all, instead of rate x seconds. `pad`: bytes of padding in each message.
    `missed`: messages for each client that comes back. `topics`: how many each stream follows beside its
    user. They are its own, and messages are for the user and each of them in turn; `shared`: all streams,
    each of another user, follow the same, and messages are for the first.
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
    missed: int = 10
    topics: int = 0
    shared: bool = False
    seconds: tuple[float, float] = (8, 2)
    needs: frozenset[str] = frozenset()
    about: tuple[int, int] = (14, 6)

    @property
    def tls(self) -> bool:
        return "tls" in self.needs

    @property
    def loads(self) -> dict[str, int]:
        """How the load client asks: users, and topics of each."""
        users = self.conns if self.shared else self.users
        return {"users": users, "topics": self.topics, "shared": int(self.shared)}

    @property
    def sends(self) -> dict[str, int]:
        """Whom the publisher writes to: users and topics of each, or the first topic that all share."""
        topics = min(self.topics, 1) if self.shared else self.topics
        return {"users": self.users, "topics": topics, "also": int(not self.shared)}

    def with_one_key(self) -> Work:
        """The same for streams that follow their user alone."""
        return replace(self, topics=0, shared=False)


def _fan(rate: int, conns: int) -> Work:
    title = f"fan-out: {rate:,} messages/s to {conns:,} connections of one user"
    return Work(f"fan-{rate}x{conns}", title, "deliver", conns, rate=rate)


TLS, TOPICS = frozenset({"tls"}), frozenset({"topics"})
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
        "topics-2000x1000",
        "2,000 messages/s to a topic that 1,000 streams follow, beside two other topics and a user each",
        "topics",
        1000,
        rate=2000,
        topics=3,
        shared=True,
        needs=TOPICS,
        about=(28, 14),
    ),
    Work(
        "topics-each-100k",
        "20,000 messages/s to 100,000 topics of one follower each: 1,000 streams follow 100 and a user each",
        "topics",
        1000,
        1000,
        20000,
        topics=100,
        needs=TOPICS,
        about=(28, 14),
    ),
    Work(
        "storm-4keys",
        "5,000 clients of a user and three topics each are cut, miss 20 messages each, and come back at once",
        "storm topics",
        5000,
        5000,
        missed=20,
        topics=3,
        needs=TOPICS,
        about=(80, 50),
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
