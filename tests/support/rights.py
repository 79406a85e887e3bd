"""The rights in Redis that docs/security.md names."""

from __future__ import annotations

from tests.support.tools import ROOT

DOCS = ROOT / "docs" / "security.md"


def granting() -> list[list[str]]:
    """The words of each command that grants some, in their order."""
    return [line.split() for line in DOCS.read_text().splitlines() if line.startswith("ACL SETUSER ")]


def least_rights(right: str) -> list[str]:
    """What the command grants that has this right."""
    for words in granting():
        if right in words:
            return [word for word in words[3:] if word not in ("on", ">password")]
    raise LookupError(right)
