"""Of the copies of a message one counts."""

from __future__ import annotations

from trio_sse.delivery.copies import MOST, SECONDS, Copies


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_copy_is_new_and_later_ones_are_not() -> None:
    copies = Copies(Clock())
    assert copies.is_new(b"a")
    assert copies.is_new(b"b")
    assert not copies.is_new(b"a")
    assert not copies.is_new(b"b")
    assert len(copies) == 2


def test_a_copy_is_known_for_so_long_and_no_longer() -> None:
    clock = Clock()
    copies = Copies(clock)
    copies.is_new(b"a")
    clock.now = SECONDS - 1
    assert not copies.is_new(b"a")
    copies.is_new(b"b")
    clock.now = SECONDS
    assert copies.is_new(b"c")
    assert len(copies) == 2
    assert copies.is_new(b"a")
    assert not copies.is_new(b"b")


def test_not_more_are_kept_than_that() -> None:
    copies = Copies(Clock())
    for number in range(MOST + 10):
        assert copies.is_new(b"%d" % number)
    assert len(copies) == MOST
    assert not copies.is_new(b"%d" % (MOST + 9))
    assert copies.is_new(b"0")
