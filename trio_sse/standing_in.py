"""Something of ours in the place of what a library looks up by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import ModuleType


@contextlib.contextmanager
def standing_in(place: ModuleType | type, names: Mapping[str, object]) -> Iterator[None]:
    """Let `names` of a module or class mean these, until the end. All of them must be there before."""
    own = {name: getattr(place, name) for name in names}
    _set(place, names)
    try:
        yield
    finally:
        _set(place, own)


def _set(place: ModuleType | type, names: Mapping[str, object]) -> None:
    for name, value in names.items():
        setattr(place, name, value)


def with_own(module: ModuleType, **own: object) -> ModuleType:
    """`module` as somebody who knows it by a name of his own is to see it: with these in place of the same.
    Everybody else sees what it has."""
    seen = ModuleType(module.__name__)
    vars(seen).update(vars(module), **own)
    return seen
