"""Commands write the environment. That of the tests stays as it was, and has no settings of ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    theirs = ("SSE_", "REDIS_", "TRIO_SSE_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    with mock.patch.dict(os.environ, clean, clear=True):
        yield
