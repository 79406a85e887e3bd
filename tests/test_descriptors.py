"""How many files are open."""

from __future__ import annotations

import os
import resource

import pytest

from trio_sse.descriptors import RESERVE, Descriptors, descriptors, few_left


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


def test_the_last_ones_are_not_for_streams() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    assert not few_left()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + RESERVE + 1, hard))
        assert not few_left()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + RESERVE, hard))
        assert few_left()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        assert few_left()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
