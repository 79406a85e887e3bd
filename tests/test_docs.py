"""The documents say what the code has: settings, modules, files, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trio_sse import cli
from trio_sse.settings import Settings
from trio_sse.settings.model import FORMER_NAMES

ROOT = Path(__file__).parents[1]
DOCS = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
by_name = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
ENGLISH = ("README.md", "docs/settings.md")
CHINESE = ("README.zh-CN.md", "docs/settings.zh-CN.md")


class Row(NamedTuple):
    name: str
    default: str
    meaning: str
    accepted: str


def rows(path: str) -> list[Row]:
    """The rows of the tables of settings, in order."""
    row = r"^\| `((?:SSE|REDIS)_\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$"
    lines = re.findall(row, ROOT.joinpath(path).read_text(), re.MULTILINE)
    return [Row(*(cell.strip() for cell in line)) for line in lines]


def settings() -> list[Row]:
    found = []
    for field in Settings.model_fields.values():
        extra: Any = field.json_schema_extra
        default = field.default
        text = ("true" if default else "false") if isinstance(default, bool) else default
        text = ",".join(text) if isinstance(text, tuple) else text
        text = int(text) if isinstance(text, float) and text.is_integer() else text
        cell = "" if text in (None, "") else f"`{text}`"
        found.append(Row(str(field.validation_alias), cell, field.description or "", extra["accepts"]))
    return found


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert rows("docs/settings.md") == settings()


@pytest.mark.parametrize("path", ["README.md", "docs/settings.zh-CN.md", "README.zh-CN.md"])
def test_a_row_of_a_setting_is_that_of_the_code(path: str) -> None:
    """In Chinese all but the words: numbers, and what is to be typed as it stands."""
    known = {row.name: row for row in settings()}
    found = rows(path)
    assert found
    for row in found:
        ours = known[row.name]
        if path in ENGLISH:
            assert row == ours
        else:
            assert (row.name, row.default) == (ours.name, ours.default)
            assert typed(row.accepted) == typed(ours.accepted), row.name


TYPED = re.compile(
    r"[a-z]*://\S*|\*\S*\*\S*|\S+\.example\S*|\S+/\S+|\d[\d.]*|"
    r"\b(?:gap|disconnect|none|jwt|true|false|console|json|debug|info|warning|error|unix)\b"
)


def typed(text: str) -> set[str]:
    """What of `accepted` is typed as it stands, or is a number."""
    return {part.strip(",;，；：。、") for part in TYPED.findall(re.sub(r"[，；：。、（）]", " ", text))}


def test_the_chinese_table_has_every_setting_and_both_readmes_have_the_same() -> None:
    for english, chinese in zip(ENGLISH, CHINESE, strict=True):
        assert [row.name for row in rows(english)] == [row.name for row in rows(chinese)]


@by_name
def test_a_setting_that_is_named_exists(path: Path) -> None:
    known = {row.name for row in settings()}
    known |= {f"{name}_FILE" for name in known} | set(FORMER_NAMES.values())
    named = set(re.findall(r"\b(?:SSE|REDIS)_[A-Z_]*[A-Z]\b(?!_)", path.read_text()))
    assert named <= known


LINK = re.compile(r"\]\(([^)\s]+)\)")


@by_name
def test_a_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def headings(path: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@by_name
def test_a_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"`((?:tests|trio_sse|docs|benchmarks)/[\w./-]+)`", text):
        assert ROOT.joinpath(name).exists(), name
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert ROOT.joinpath("tests", "integration", name).exists(), name


def test_a_fence_that_begins_ends() -> None:
    for path in DOCS:
        assert path.read_text().count("```") % 2 == 0, path


@by_name
def test_a_heading_is_there_once(path: Path) -> None:
    found = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE),
        re.MULTILINE,
    )
    assert len(found) == len(set(found)) or path.name == "CHANGELOG.md"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_both_readmes_have_the_same_commands_near_the_top(name: str) -> None:
    commands = re.findall(r"^python3 -m venv .*$", ROOT.joinpath(name).read_text(), re.MULTILINE)
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/trio-sse",
        "python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox",
    ]


@pytest.mark.parametrize(
    ("english", "chinese"),
    [(path, path.with_suffix(".zh-CN.md")) for path in DOCS if path.with_suffix(".zh-CN.md").exists()],
    ids=lambda path: path.stem,
)
def test_what_is_typed_is_the_same_in_both_languages(english: Path, chinese: Path) -> None:
    """Blocks of commands and code, but for comments."""

    def blocks(path: Path) -> list[str]:
        text = re.sub(r"   #.*$", "", path.read_text(), flags=re.MULTILINE)
        return re.findall(r"^```\w*\n.*?^```$", text, re.DOTALL | re.MULTILINE)

    assert blocks(english) == blocks(chinese)


@by_name
def test_a_command_that_is_shown_has_these_options(path: Path) -> None:
    """`trio-sse publish …` and the like are read as the command reads them. None is run."""
    for line in re.findall(
        r"^(?:\$ )?(?:[A-Z_]+=\S+ )*trio-sse ([a-z]+ .*)$", path.read_text(), re.MULTILINE
    ):
        name, *arguments = shlex.split(line, comments=True)
        command = cli.main.commands[name]
        command.make_context(name, arguments)


def test_the_design_has_a_row_for_every_module_and_for_nothing_else() -> None:
    modules = {
        ".".join(path.relative_to(ROOT / "trio_sse").with_suffix("").parts)
        for path in ROOT.joinpath("trio_sse").rglob("*.py")
        if path.stem not in ("__init__", "version")
    }
    named: list[str] = []
    folder = ""
    for line in ROOT.joinpath("docs", "design.md").read_text().splitlines():
        if heading := re.match(r"#+ (?:`([\w/]+)/`)?", line):
            folder = (heading[1] or "").replace("/", ".")
        elif row := re.match(r"\| `(\w+)`", line):
            named.append(f"{folder}.{row[1]}" if folder else row[1])
    assert sorted(named) == sorted(modules)
