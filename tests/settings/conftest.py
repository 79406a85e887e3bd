"""No setting of whoever runs the tests has a say in them."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SSE_", "REDIS_")):
            monkeypatch.delenv(name)
