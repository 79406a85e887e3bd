"""Open files of this process: each stream is one."""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

RESERVE = 16
"""With fewer left the process is not ready, and streams are refused: they go to another one, while this one
can still answer probes."""


class Descriptors(NamedTuple):
    open: int
    limit: int
    """How many may be open: the soft limit."""

    @property
    def short(self) -> bool:
        """Whether hardly any is left."""
        return self.limit - self.open < RESERVE


def few_left() -> bool:
    """Whether only the last RESERVE may be left. Takes a microsecond, however many are open: a new one is the
    lowest that is free (POSIX, "File Descriptor Allocation")."""
    try:
        lowest = os.dup(0)
    except OSError:
        return True
    os.close(lowest)
    return lowest >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE


def descriptors() -> Descriptors:
    """How many files are open now."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # Since Linux 6.2 it has a size: that many. Before it has none, and they must be counted.
    count = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    return Descriptors(count, limit)
