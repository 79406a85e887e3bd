"""Every test of this folder is one of the balance, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.balance import assert_exact
from trio_sse.delivery.batch import Batch
from trio_sse.delivery.braid import Strand
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.hub import Hub


@pytest.fixture(autouse=True)
def balanced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test did with connections, what was published to them is delivered, declared or owed. Many
    tests offer without a flusher, so each offer is counted here, as the flusher would."""
    if request.path.stem == "test_lifetimes" or "circle" in request.node.name:  # nobody may hold a connection
        yield
        return
    connections: list[Connection] = []
    make = Connection.__init__
    offering = [False]

    def remembered(self: Connection, *args: Any) -> None:
        connections.append(self)
        make(self, *args)

    def counting(offer: Any) -> Any:
        def offered(self: Connection, batch: Batch) -> bool:
            if offering[0]:  # by a strand, for which all of the batch was counted
                return bool(offer(self, batch))
            offering[0] = True
            try:
                taken = bool(offer(self, batch))
            finally:
                offering[0] = False
            balance = self._common.counters.balance
            balance.published += batch.messages
            balance.direct += batch.messages * taken
            return taken

        return offered

    monkeypatch.setattr(Connection, "__init__", remembered)
    monkeypatch.setattr(Connection, "offer", counting(Connection.offer))
    monkeypatch.setattr(Strand, "offer", counting(Strand.offer))
    monkeypatch.setattr(Hub, "offered", lambda *_: None)
    yield
    assert_exact(connections)
