"""`python -m tests.chaos`: the faults, the count, the table."""

from __future__ import annotations

import argparse
import signal
import sys
import time

import trio

from tests.chaos.report import line, write
from tests.chaos.runner import Result, play
from tests.chaos.scenarios import SCENARIOS

JOBS = 4
"""Scenarios at a time in the quick form: most of each is waiting."""


def main() -> int:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form of each, for CI")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--source", action="append", choices=["channel", "stream", "both"])
    parser.add_argument("--jobs", type=int, help=f"how many at a time (1, with --quick {JOBS})")
    parser.add_argument("--write", action="store_true", help="write what was played into docs/reliability.md")
    chosen = parser.parse_args()
    if chosen.write and chosen.quick:
        parser.error("--write is for the full form")
    cases = [
        (scenario, source)
        for scenario in SCENARIOS
        for source in scenario.sources
        if (scenario.name in chosen.only if chosen.only else scenario.quick or not chosen.quick)
        and (not chosen.source or source in chosen.source)
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, with all processes

    def report(result: Result) -> None:
        print(line(result), flush=True)
        if result.problem:
            print(result.problem, flush=True)

    began = time.monotonic()
    jobs = chosen.jobs or (JOBS if chosen.quick else 1)
    results: list[Result] = []
    try:
        results = trio.run(lambda: play(cases, quick=chosen.quick, jobs=jobs, report=report))
    except* KeyboardInterrupt:
        print("ended", file=sys.stderr)
    if not results:
        return 130
    failed = [result for result in results if result.problem]
    left_out = [result for result in results if result.left_out]
    if chosen.write and not failed:
        write(results)
    print(
        f"{len(results) - len(left_out)} played, {len(failed)} failed, {len(left_out)} left out,"
        f" {time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
