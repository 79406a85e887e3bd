"""Fixtures of the unit tests that need a Redis of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clusters import Cluster, cluster
from tests.support.log import BackEnd
from tests.support.ports import free_port
from trio_sse import embedded


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a Valkey that the tests of one file share, since some break its connections."""
    with embedded.valkey(free_port()) as port:
        yield port


@pytest.fixture
def back_end(port: int) -> Iterator[BackEnd]:
    """A client of that Valkey, which is empty at first."""
    with BackEnd(port) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    """A cluster of three masters that the tests of one file share. Slots may move, and masters stay."""
    with cluster(3) as found:
        yield found
