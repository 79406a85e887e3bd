"""Names of a library's module that mean something else for a while."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from trio_sse.standing_in import standing_in, with_own


def test_names_mean_something_else_until_the_end_however_that_comes() -> None:
    module = ModuleType("library")
    vars(module).update(one=1, two=2, three=3)

    def fail() -> None:
        with standing_in(module, {"one": "I", "two": "II"}):
            assert [module.one, module.two, module.three] == ["I", "II", 3]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.one, module.two, module.three] == [1, 2, 3]


def test_a_name_that_is_not_there_changes_nothing() -> None:
    module = ModuleType("library")
    vars(module).update(one=1)
    with pytest.raises(AttributeError), standing_in(module, {"one": "I", "two": "II"}):
        pass
    assert (module.one, hasattr(module, "two")) == (1, False)


def test_a_module_is_seen_with_something_of_ours() -> None:
    seen = with_own(math, pi=3)
    assert (seen.pi, seen.e) == (3, math.e)
    assert math.pi != 3
