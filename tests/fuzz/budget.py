"""How much is tried: a little with every run of the tests, and as much as one likes.

`FUZZ_SECONDS=600 pytest tests/integration/test_fuzz.py` gives each test there ten minutes, and
`pytest -p tests.fuzz.budget --hypothesis-profile=fuzz tests` lets every property of the tests hold for
EXAMPLES inputs.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy, lists

EXAMPLES = 10_000
SHRINKING_SECONDS = 600

settings.register_profile(
    "fuzz", max_examples=EXAMPLES, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck)
)

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

_SMALL = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_LARGE = settings(deadline=None, derandomize=False, suppress_health_check=list(HealthCheck), print_blob=True)

T = TypeVar("T")


def fuzz(each: SearchStrategy[T], together: int, holds: Callable[[list[T]], None]) -> None:
    """Let `holds` look at so many inputs together, always the same ones, or for FUZZ_SECONDS at up to so many
    that are new."""
    tried = 0

    def counted(example: list[T]) -> None:
        nonlocal tried
        tried += len(example)
        holds(example)

    if SECONDS:
        # Beyond the deadline that conftest.py sets, and the time to find the least input that fails.
        signal.alarm(math.ceil(SECONDS) + SHRINKING_SECONDS)
    inputs = lists(each, min_size=1 if SECONDS else together, max_size=together)
    examples = (_LARGE if SECONDS else _SMALL)(given(inputs)(counted))
    end = time.monotonic() + SECONDS
    while not tried or time.monotonic() < end:
        examples()
    print(f"{tried} inputs")
