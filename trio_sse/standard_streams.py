"""Standard input, output and error of a process that was started without one of them."""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Let each of the first three descriptors that is closed lead to /dev/null.

    The next socket would otherwise get its number, and be written to by whatever knows that number as
    standard error: the interpreter, OpenSSL, child processes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
