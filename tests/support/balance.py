"""What was published to streams is delivered, declared or owed: counted once more, stream by stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple

from trio_sse.counters import Balance
from trio_sse.delivery.connection import Connection


def assert_exact(connections: Iterable[Connection]) -> None:
    """The balance that these have in common is exact, and owes what each of them is owed."""
    owed: defaultdict[int, int] = defaultdict(int)
    balances: dict[int, Balance] = {}
    for connection in connections:
        balance = connection._common.counters.balance
        balances[id(balance)] = balance
        owed[id(balance)] += owed_to(connection)
    for key, balance in balances.items():
        assert balance.undeclared == 0, balance
        assert balance.owed == owed[key], balance
        assert min(astuple(balance)) >= 0, balance


def owed_to(connection: Connection) -> int:
    replay = connection._replay
    return connection._waiting + (0 if replay is None else replay.due.count)
