"""Every test of this folder is one of the balance, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.balance import assert_exact
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub


@pytest.fixture(autouse=True)
def balanced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test did with connections, what was published to them is delivered, declared or owed. Many
    tests offer without a flusher, so each offer is counted here, as the flusher would."""
    if request.path.stem == "test_lifetimes":  # where nobody may hold a connection
        yield
        return
    connections: list[Connection] = []
    make, offer = Connection.__init__, Connection.offer

    def remembered(self: Connection, *args: Any) -> None:
        connections.append(self)
        make(self, *args)

    def offered(self: Connection, batch: Batch) -> bool:
        taken = offer(self, batch)
        balance = self._common.counters.balance
        balance.published += batch.messages
        balance.direct += batch.messages * taken
        return taken

    monkeypatch.setattr(Connection, "__init__", remembered)
    monkeypatch.setattr(Connection, "offer", offered)
    monkeypatch.setattr(Hub, "offered", lambda *_: None)
    yield
    assert_exact(connections)
