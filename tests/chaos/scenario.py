"""What a scenario is, and the list of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.bench import Bench, Source

Play = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A fault, and how to make it. Called with a fresh bench for each source."""

    name: str
    fault: str
    sources: tuple[Source, ...]
    play: Play
    quick: bool
    """Whether the quick form has it."""
    seconds: float
    """More than it ever needs."""
    stream_gaps: bool
    """Whether a gap is right even with the stream as the only source."""


SCENARIOS: list[Scenario] = []


def scenario(
    fault: str, *sources: Source, quick: bool = True, seconds: float = 120, stream_gaps: bool = False
) -> Callable[[Play], Play]:
    """Add a function to the list. Its name is the scenario's."""

    def add(play: Play) -> Play:
        name = play.__name__.replace("_", "-")
        SCENARIOS.append(Scenario(name, fault, sources, play, quick, seconds, stream_gaps))
        return play

    return add
