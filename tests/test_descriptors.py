"""How many files are open."""

from __future__ import annotations

import os
import resource

import pytest

from trio_sse.descriptors import RESERVE, Descriptors, descriptors


def test_each_open_file_counts() -> None:
    before = descriptors()
    fds = [os.dup(0) for _ in range(5)]
    try:
        assert descriptors().open == before.open + 5
    finally:
        for fd in fds:
            os.close(fd)
    assert before.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_where_the_kernel_does_not_say_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    known = descriptors().open

    class Nothing:
        st_size = 0

    monkeypatch.setattr(os, "stat", lambda _: Nothing)
    assert abs(descriptors().open - known) <= 1


@pytest.mark.parametrize(("left", "short"), [(RESERVE, False), (RESERVE - 1, True), (0, True)])
def test_it_is_short_of_files_before_none_is_left(left: int, short: bool) -> None:
    assert Descriptors(1000 - left, 1000).short is short
