"""Standard input, output and error for a process that was started without one of them.

Import this before anything that keeps a file open, as ctypes does with some builds of libffi;
`trio_sse/__init__.py` does so. If all three are open, nothing happens.
"""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Open /dev/null for each of the first three descriptors that is closed.

    Otherwise the next socket would get that number, and the interpreter, OpenSSL or a child process would
    write its standard error to that socket. A number that is already taken stays as it is, and nothing is
    written to it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        missing = getattr(sys, name) is None
        where: int | str = number
        if _is_closed(number):
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            os.set_inheritable(number, True)
        elif missing:
            where = os.devnull
        if missing:
            stream = open(where, mode, encoding="utf-8", errors="replace", closefd=where != number)  # noqa: SIM115
            setattr(sys, name, stream)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


open_missing()
