"""Programs of the docs, made ready to run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.tools import ROOT, tool


def program(document: str, section: str, instead: Mapping[str, str]) -> str:
    """The one block of code in this section, with other texts in the place of some, each of which is
    there."""
    text = ROOT.joinpath("docs", document).read_text()
    (part,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    (found,) = re.findall(r"^```\w+\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    for old, new in instead.items():
        assert old in found, old
        found = found.replace(old, new)
    return str(found)


def npm_install(directory: Path, *packages: str) -> None:
    """Install packages there, as the docs say."""
    directory.joinpath("package.json").write_text('{"private": true}')
    command = [tool("npm"), "install", "--silent", "--no-audit", "--no-fund", *packages]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
