"""`trio-sse check`, as it is run in this process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inside import settings
from trio_sse import check


def lines(capsys: pytest.CaptureFixture[str], **values: Any) -> tuple[int, str]:
    """Its exit code and what it prints, with these settings and a port that is free."""
    code = check.run(settings(**{"host": "127.0.0.1", "port": 0, **values}))
    return code, capsys.readouterr().out
