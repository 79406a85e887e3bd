"""The ways to run the service that tests go through."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Variant:
    """A way to run the service: the command and what is set in its environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.name

    @property
    def on_hypercorn(self) -> bool:
        return self.command[0] == "hypercorn"

    def argv(self, port: int) -> list[str]:
        bind = ["-b", f"127.0.0.1:{port}"] if self.on_hypercorn else []
        return [script(self.command[0]), *self.command[1:], *bind]


TRIO_SSE = Variant("trio-sse", ("trio-sse",))
HYPERCORN_TRIO = Variant("hypercorn-k-trio", ("hypercorn", "-k", "trio", "trio_sse:app"))
HYPERCORN = Variant("hypercorn", ("hypercorn", "trio_sse:app"))

COMMANDS = (TRIO_SSE, HYPERCORN_TRIO, HYPERCORN)
"""The three commands, as a user types them."""

VARIANTS = (
    *COMMANDS,
    Variant("trio-sse-no-direct", TRIO_SSE.command, {"SSE_DIRECT": "false"}),
    Variant("hypercorn-k-trio-no-direct", HYPERCORN_TRIO.command, {"SSE_DIRECT": "false"}),
    Variant("hypercorn-no-direct", HYPERCORN.command, {"SSE_DIRECT": "false"}),
)
"""The commands, each with streams on their own sockets and with streams by Quart."""


def script(name: str) -> str:
    """A console script of the environment the tests run in."""
    return str(Path(sys.executable).with_name(name))
