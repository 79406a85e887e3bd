"""A process that was started without one of its standard streams."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import with_code_under_test

PROGRAM = """
import os, socket, sys
import trio_sse
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
        command, env=with_code_under_test({}), stdin=subprocess.PIPE, capture_output=True, timeout=60
    )
    assert ended.returncode == 10 + closed.count("&-")


TAKEN = """
import os, sys
taken = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
import trio_sse
print("to nobody", file=sys.stderr, flush=True)
sys.exit(10 * taken + os.fstat(taken).st_size)
"""


def test_nothing_is_written_to_what_somebody_opened_in_its_place(tmp_path: Path) -> None:
    command = ["bash", "-c", 'exec "$0" -c "$1" "$2" 2>&-', sys.executable, TAKEN, str(tmp_path / "theirs")]
    ended = subprocess.run(command, env=with_code_under_test({}), timeout=60)
    assert ended.returncode == 20
