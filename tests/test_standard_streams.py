"""A process that was started without one of its standard streams."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import with_code_under_test

PROGRAM = """
import os, socket, sys
from trio_sse.standard_streams import open_missing
open_missing()
with socket.socket() as first:
    print("to nobody", file=sys.stderr, flush=True)
    sys.stdout.write("")
    kinds = [os.fstat(number).st_rdev == os.stat("/dev/null").st_rdev for number in range(3)]
    sys.exit(10 * (first.fileno() > 2 and None not in (sys.stdin, sys.stdout, sys.stderr)) + sum(kinds))
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&-"])
def test_what_is_closed_leads_nowhere(closed: str) -> None:
    command = ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM]
    ended = subprocess.run(
        command, env=with_code_under_test({}), stdin=subprocess.PIPE, capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert ended.returncode == 10 + closed.count("&-")
