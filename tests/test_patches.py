"""What stands in the place of libraries: all of it in one table, and one policy for what is missing."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest
from structlog.testing import capture_logs

import trio_sse
from trio_sse.patches import PATCHES, Patch, standing_in, with_own

ROOT = Path(__file__).parent.parent
PACKAGE = Path(trio_sse.__file__).parent


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.what)
def test_each_has_a_test_that_says_when_it_can_go(patch: Patch) -> None:
    path, _, name = patch.test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_whoever_stands_in_a_library_s_place_is_in_the_table() -> None:
    listed = {patch.where for patch in PATCHES}
    for path in PACKAGE.rglob("*.py"):
        if "standing_in(" in path.read_text() and path.stem != "patches":
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            assert module in listed or module.rpartition(".")[0] in listed


def test_names_mean_something_else_until_the_end_however_that_comes() -> None:
    module = ModuleType("library")
    vars(module).update(one=1, two=2, three=3)

    def fail() -> None:
        with standing_in({module: {"one": "I", "two": "II"}}, "without"):
            assert [module.one, module.two, module.three] == ["I", "II", 3]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.one, module.two, module.three] == [1, 2, 3]


def test_where_a_name_is_not_there_nothing_is_changed_and_a_line_says_so() -> None:
    module, other = ModuleType("library"), ModuleType("other")
    vars(module).update(one=1)
    with capture_logs() as logs, standing_in({module: {"one": "I"}, other: {"two": "II"}}, "it is slower"):
        assert (module.one, hasattr(other, "two")) == (1, False)
    (line,) = logs
    assert (line["log_level"], line["missing"], "it is slower" in line["event"]) == ("warning", "two", True)


def test_a_module_is_seen_with_something_of_ours() -> None:
    seen = with_own(math, pi=3)
    assert (seen.pi, seen.e) == (3, math.e)
    assert math.pi != 3
