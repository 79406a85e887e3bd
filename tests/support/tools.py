"""Programs that are no part of this package."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PLACES = (
    os.environ.get("PATH", ""),
    str(Path(sys.executable).parent),  # those that a package of this environment brings
    str(ROOT / ".nox" / "tools"),  # those that .ci/run builds
    "/usr/sbin",
)


def tool(name: str) -> str:
    """The path of a program. Where there is none the test is skipped; in CI, only if CI_WITHOUT names it."""
    if path := shutil.which(name, path=os.pathsep.join(_PLACES)):
        return path
    if os.environ.get("CI") and name not in os.environ.get("CI_WITHOUT", "").split():
        pytest.fail(f"no {name}, and in CI there must be one")
    pytest.skip(f"no {name} on PATH")
