"""What comes by a replica that has taken over, and had come by the master before."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trio_sse.broker import echoes as module
from trio_sse.broker.cluster_map import Address
from trio_sse.broker.echoes import Echoes


@dataclass(eq=False)
class Node:
    address: Address | None
    replicas: frozenset[Address] = frozenset()


B = ("b", 2)
OLD, NEW, OTHER = Node(("a", 1), frozenset([B])), Node(B), Node(("c", 3))


def test_it_is_an_echo_by_the_replica_alone() -> None:
    echoes = Echoes()
    assert not echoes.is_one(OLD, b"user:1", b"x")
    assert not echoes.is_one(NEW, b"user:2", b"x")
    assert not echoes.is_one(NEW, b"user:1", b"y")
    assert echoes.is_one(NEW, b"user:1", b"x")
    assert not echoes.is_one(NEW, b"user:1", b"x")  # the same text was published again
    assert not echoes.is_one(OLD, b"user:2", b"x")  # it is nobody's replica


def test_slots_that_move_make_no_echo() -> None:
    echoes = Echoes()
    assert not echoes.is_one(OLD, b"user:1", b"x")
    assert not echoes.is_one(OTHER, b"user:1", b"x")
    assert not echoes.is_one(NEW, b"user:1", b"x")


@pytest.mark.parametrize("ticks_between", [0, module.TICKS])
def test_each_counts_once(ticks_between: int) -> None:
    echoes = Echoes()
    for _ in range(2):
        assert not echoes.is_one(OLD, b"user:1", b"x")
    for _ in range(ticks_between):
        echoes.expire()
    assert not echoes.is_one(OLD, b"user:1", b"x")
    assert [echoes.is_one(NEW, b"user:1", b"x") for _ in range(5)] == [True, True, True, False, False]


def test_the_one_who_wakes_again_may_be_followed_again() -> None:
    first, second = Node(("a", 1), frozenset([B])), Node(B, frozenset([("a", 1)]))
    echoes = Echoes()
    assert not echoes.is_one(first, b"user:1", b"x")
    assert echoes.is_one(second, b"user:1", b"x")
    assert not echoes.is_one(second, b"user:1", b"x")
    assert echoes.is_one(first, b"user:1", b"x")


def test_it_forgets_by_time() -> None:
    echoes = Echoes()
    for _ in range(module.TICKS - 1):
        echoes.expire()
    echoes.is_one(OLD, b"user:1", b"x")
    for _ in range(module.TICKS):
        echoes.expire()
    echoes.is_one(OLD, b"user:1", b"y")
    assert len(echoes) == 2
    assert echoes.is_one(NEW, b"user:1", b"x")
    for _ in range(module.TICKS):
        echoes.expire()
    assert not echoes.is_one(NEW, b"user:1", b"x")
    for _ in range(2 * module.TICKS):
        echoes.expire()
    assert not len(echoes)


def test_it_forgets_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    echoes = Echoes()
    for number in range(30):
        echoes.is_one(OLD, b"user:1", b"%d" % number)
        assert len(echoes) <= 20
    assert echoes.is_one(NEW, b"user:1", b"29")
    assert not echoes.is_one(NEW, b"user:1", b"0")
