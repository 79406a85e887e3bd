"""The numbers of all workers, also of those that have ended: what was counted once stays counted."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from trio_sse.metrics.exposition import exposition
from trio_sse.metrics.families import FAMILIES
from trio_sse.metrics.report import Report, Totals

MOST_WORKERS = 1000
"""Of so many workers the totals are kept. They are replaced one by one where the server ends them after some
requests."""

MOST_TOLD = 32
"""As long as there are no more, a worker tells the totals of all others that it knows. Beyond that it leaves
out those that answered it last: they are asked themselves."""

_decode = msgspec.msgpack.Decoder(Report).decode
_JOINED = {family.name: family.joined for family in FAMILIES}


class Workers(Protocol):
    """The other workers of this service."""

    answers: dict[str, Callable[[bytes], bytes]]

    async def ask(self, kind: str, body: bytes = b"") -> tuple[list[bytes], set[str]]: ...

    def tell(self, kind: str, body: bytes) -> None: ...


@dataclass(slots=True)
class _Known:
    """What is known of the totals of workers, by their names."""

    totals: dict[str, Totals] = field(default_factory=dict)

    def hear(self, worker: str, totals: Totals) -> None:
        """Totals grow, so the later ones of two are the larger ones. What is owed is as it was then."""
        known = self.totals.pop(worker, totals)
        self.totals[worker] = max(known, totals, key=_age)  # the last one that was heard of
        while len(self.totals) > MOST_WORKERS:
            del self.totals[next(iter(self.totals))]


class Metrics:
    """Asks all workers at each question, so that whichever is asked answers for all.

    A worker that has ended told the others its totals. One that was killed did not: of it the others know
    what it said last.
    """

    def __init__(
        self,
        worker: str,
        totals: Callable[[], Totals],
        gauges: Callable[[], Totals],
        workers: Workers,
        same: Iterable[str] = (),
    ) -> None:
        """`same` has the names of what each worker counts for all of them."""
        self._worker = worker
        self._totals = totals
        self._gauges = gauges
        self._workers = workers
        self._same = tuple(same)
        self._known = _Known()
        self._answered: set[str] = set()
        workers.answers["metrics"] = lambda _: self._report()
        workers.answers["ended"] = self._hear

    async def text(self, accept: str) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type. `accept` is the header field of that name."""
        return exposition(await self.numbers(), accept)

    async def numbers(self) -> Totals:
        """The numbers of all workers."""
        reports: list[Report] = []
        answers, _ = await self._workers.ask("metrics")
        for answer in answers:
            with contextlib.suppress(msgspec.MsgspecError):
                reports.append(self._heard(answer))
        self._answered = {report.worker for report in reports}
        reports.append(Report(self._worker, self._totals(), self._gauges()))
        totals = dict(self._known.totals)
        totals.update((report.worker, report.totals) for report in reports)
        joined = {**self._sum(totals.values()), **_join(report.gauges for report in reports)}
        joined["workers"] = len(reports)
        return joined

    def end(self) -> None:
        """Tell the others what was counted here, and elsewhere: this worker ends."""
        self._workers.tell("ended", self._report())

    def _report(self) -> bytes:
        others = self._known.totals
        if len(others) > MOST_TOLD:
            others = {worker: totals for worker, totals in others.items() if worker not in self._answered}
        return msgspec.msgpack.encode(Report(self._worker, self._totals(), self._gauges(), others))

    def _heard(self, data: bytes) -> Report:
        """Raises MsgspecError."""
        report = _decode(data)
        for worker, totals in ((report.worker, report.totals), *report.others.items()):
            if worker != self._worker:
                self._known.hear(worker, totals)
        return report

    def _hear(self, data: bytes) -> bytes:
        self._heard(data)
        return b""

    def _sum(self, all_totals: Iterable[Totals]) -> Totals:
        found: defaultdict[str, float] = defaultdict(int)
        for totals in all_totals:
            for name, total in totals.items():
                if name.startswith(self._same):
                    found[name] = max(found[name], total)
                else:
                    found[name] += total
        return found


def _age(totals: Totals) -> float:
    """Grows with the totals."""
    return sum(totals.values()) - totals["owed"]


def _join(all_gauges: Iterable[Totals]) -> Totals:
    found: Totals = {}
    for gauges in all_gauges:
        for name, value in gauges.items():
            found[name] = _JOINED[name](found[name], value) if name in found else value
    return found
