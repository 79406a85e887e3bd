"""Something of ours in the place of what a library looks up by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import ModuleType


@contextlib.contextmanager
def standing_in(module: ModuleType, names: Mapping[str, object]) -> Iterator[None]:
    """Let `names` of `module` mean these, until the end. All of them must be there before."""
    own = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(own)
