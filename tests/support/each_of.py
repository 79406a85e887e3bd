"""Services that the tests of a module share, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.process import Service, wait_until
from tests.support.variants import Variant


def each_of(started: str, variants: Sequence[Variant]) -> Any:
    """A fixture: in turn each of the services that the fixture `started` has, when all others have left it.

    `variants` are theirs, in the same order.
    """

    @pytest.fixture(params=range(len(variants)), ids=[*map(str, variants)])
    def one(request: pytest.FixtureRequest) -> Service:
        service: Service = request.getfixturevalue(started)[request.param]
        wait_until(lambda: service.connections == 0, "all others have left")
        return service

    return one
