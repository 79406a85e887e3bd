"""Plays scenarios, one or several at a time, and judges what they counted."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.chaos.bench import Bench, LeftOutError, Source
from tests.chaos.ledger import Count
from tests.chaos.scenario import Scenario


@dataclass
class Result:
    scenario: Scenario
    source: Source
    count: Count = field(default_factory=Count)
    seconds: float | None = None
    """The longest it took until messages flowed again."""
    took: float = 0
    left_out: str = ""
    problem: str = ""
    """What went wrong, or what was counted and must not be."""


async def play(
    scenarios: Iterable[tuple[Scenario, Source]], *, quick: bool, jobs: int, report: Callable[[Result], None]
) -> list[Result]:
    """Play them, `jobs` at a time. Every result is reported as it comes, and returned in the order given."""
    limiter = trio.CapacityLimiter(jobs)
    results = [Result(scenario, source) for scenario, source in scenarios]

    async def one(result: Result) -> None:
        async with limiter:
            await _play(result, quick)
        report(result)

    async with trio.open_nursery() as nursery:
        for result in results:
            nursery.start_soon(one, result)
            await trio.lowlevel.checkpoint()
    return results


async def _play(result: Result, quick: bool) -> None:
    scenario, began = result.scenario, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        bench: Bench | None = None
        try:
            with trio.fail_after(scenario.seconds):
                async with trio.open_nursery() as nursery:
                    bench = Bench(result.source, quick=quick, directory=Path(directory), nursery=nursery)
                    await scenario.play(bench)
                    await bench.settle()
                    unbalanced = await trio.to_thread.run_sync(bench.balance)
                    nursery.cancel_scope.cancel()
            result.count = bench.count()
            result.seconds = max(bench.seconds, default=None)
            result.problem = _judge(result, bench, unbalanced)
        except BaseExceptionGroup as group:
            left_out = group.subgroup(LeftOutError)
            rest = group.split((LeftOutError, trio.Cancelled))[1]
            if rest is not None and rest.subgroup(Exception):
                result.problem = _explain(_text(rest), bench)
            elif left_out is not None:
                result.left_out = str(_first(left_out))
            else:
                raise  # Ctrl-C
        except trio.TooSlowError:
            result.problem = _explain(f"not done after {scenario.seconds:g} s", bench)
        except Exception as error:  # noqa: BLE001  whatever it is, the others go on
            result.problem = _explain(_text(error), bench)
        finally:
            if bench is not None:
                with trio.CancelScope(shield=True):
                    try:
                        await trio.to_thread.run_sync(bench.close)
                    except Exception as error:  # noqa: BLE001
                        result.problem = result.problem or str(error)
    result.took = time.monotonic() - began


def _judge(result: Result, bench: Bench, unbalanced: list[str]) -> str:
    """What is wrong with what was counted, or ""."""
    count = result.count
    wrong = list(unbalanced)
    if not count.published:
        wrong.append("nothing was published")
    if not count.exact:
        wrong.append(f"not every message is accounted for: {count}")
    if (
        result.source in ("stream", "partitions")
        and not result.scenario.stream_gaps
        and (count.gaps or count.covered)
    ):
        wrong.append(f"the stream had gaps: {count}")
    return _explain("\n".join(wrong), bench) if wrong else ""


def _explain(problem: str, bench: Bench | None) -> str:
    return "\n".join([problem, *(bench.worst() if bench else ())])


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
