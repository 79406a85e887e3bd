"""What a service process holds, asked from outside: its objects, descriptors and memory."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.variants import Variant

SETTLE_SECONDS = 30
"""A bound for waiting on a busy machine."""

_PAGE_MEGABYTES = os.sysconf("SC_PAGE_SIZE") / 1e6


class CountedVariant(Variant):
    """A variant whose process can be counted. Its environment must name a COUNTS_DIRECTORY of its own."""

    def argv(self, port: int) -> list[str]:
        return [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("counted_process.py")),
            *super().argv(port),
        ]


@dataclass(frozen=True)
class Counts:
    """What a process held at one moment."""

    named: dict[str, int]
    """What must come back to what it was, open descriptors included."""
    blocks: int
    """Blocks of memory that Python has given out: leaks show here long before they show in memory."""
    types: dict[str, int]
    """How many objects of each type the garbage collector knows."""
    tasks: Counter[str]
    """Where Trio's tasks wait."""
    totals: dict[str, int]
    """What the service itself counts."""

    def more(self, later: Counts) -> dict[str, str]:
        """What is named and has become more, and where those tasks are that were not there before."""
        more = {
            name: f"{number} → {later.named[name]}"
            for name, number in self.named.items()
            if later.named[name] > number
        }
        if "tasks" in more:
            more["new tasks"] = "; ".join((later.tasks - self.tasks).elements())
        return more

    def grown(self, later: Counts, more_than: float) -> dict[str, int]:
        """Types with so many more objects than before."""
        grown = {name: number - self.types.get(name, 0) for name, number in later.types.items()}
        return {name: number for name, number in grown.items() if number > more_than}


class Inside:
    """The process that serves, which under Hypercorn is a child of the one that was started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def pid(self) -> int:
        return int((self._directory / "serving").read_text())

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_MEGABYTES

    async def count(self) -> Counts:
        answer = self._directory / "counts"
        answer.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        with trio.fail_after(30):
            while not answer.exists():
                await trio.sleep(0.01)
        said = json.loads(answer.read_text())
        named = {**said["counts"], "descriptors": self.descriptors}
        return Counts(named, said["blocks"], said["types"], Counter(said["tasks"]), said["totals"])

    async def settled(self) -> Counts:
        """What there is when nothing changes any more."""
        with trio.fail_after(SETTLE_SECONDS):
            counts = [await self.count()]
            while len(counts) < 10 or any(one.named != counts[-1].named for one in counts[-10:]):
                await trio.sleep(0.1)
                counts.append(await self.count())
        return counts[-1]

    async def no_more_than(self, fresh: Counts) -> Counts:
        """What there is as soon as it is no more than `fresh`, or after SETTLE_SECONDS."""
        with trio.move_on_after(SETTLE_SECONDS):
            while fresh.more(counts := await self.count()):
                await trio.sleep(0.2)
        return counts


class Memory:
    """Resident memory over time, as medians, which single samples do not move."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []

    async def watch(self, inside: Inside, every: float) -> None:
        """Take samples until cancelled."""
        while True:
            self._samples.append((trio.current_time(), inside.megabytes))
            await trio.sleep(every)

    @property
    def growth(self) -> float:
        """Megabytes, from the median of the first third to that of the last."""
        return self._median(self._last) - self._median(self._first)

    @property
    def slope(self) -> float:
        """Megabytes per second between the two."""
        seconds = statistics.median(t for t, _ in self._last) - statistics.median(t for t, _ in self._first)
        return self.growth / seconds

    @property
    def peak(self) -> float:
        return max(megabytes for _, megabytes in self._samples)

    @property
    def _first(self) -> list[tuple[float, float]]:
        return self._samples[: max(1, len(self._samples) // 3)]

    @property
    def _last(self) -> list[tuple[float, float]]:
        return self._samples[-max(1, len(self._samples) // 3) :]

    @staticmethod
    def _median(samples: list[tuple[float, float]]) -> float:
        return statistics.median(megabytes for _, megabytes in samples)
