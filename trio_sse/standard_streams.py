"""Standard input, output and error of a process that was started without one of them.

To be imported before anything that opens a file and keeps it, as ctypes does with some builds of libffi;
`trio_sse/__init__.py` does. Where all three are open nothing is done.
"""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Let each of the first three descriptors that is closed lead to /dev/null.

    The next socket would otherwise get its number, and be written to by whatever knows that number as
    standard error: the interpreter, OpenSSL, child processes. A number that somebody has got by now stays
    theirs, and nothing is written there.
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
