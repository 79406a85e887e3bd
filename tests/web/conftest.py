"""The client of the tests of what Quart answers."""

from __future__ import annotations

import pytest
from quart.testing.client import QuartClient

from tests.support.inside import client_of
from trio_sse.service import Service


@pytest.fixture
def client(service: Service) -> QuartClient:
    """A client of the service that the test's file makes."""
    return client_of(service)
