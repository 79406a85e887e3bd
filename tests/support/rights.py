"""The rights in Redis that docs/security.md names."""

from __future__ import annotations

from typing import Any

from tests.support.tools import ROOT

GRANTED: dict[str, Any] = {
    "REDIS_USERNAME": "trio_sse",
    "REDIS_PASSWORD": "password",
    "REDIS_MAIN_DB": "0",
    "SSE_REDIS_CHANNEL": "notifications",
}
"""The settings of a service that has them."""

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
