"""The work `storm`: everybody is cut off, misses messages, and comes back at once."""

from __future__ import annotations

import time

import machine
from bench import SETTLE_SECONDS, Bench, Row, account
from services import Mode, Running, Service
from works import Work

RETURN_SECONDS = 1.0
FIRST_RATE = 5_000  # messages/s, one for each client, so that each has an id to resume from
AWAY_RATE = 20_000
QUIET_CORES = 0.1
LIMIT_SECONDS = 60.0  # for each step: publishing, digesting, coming back


def _until_quiet(run: Running) -> None:
    """Wait until the service has done what it had to do."""
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        before = machine.cpu_seconds(run.pid)
        time.sleep(SETTLE_SECONDS)
        if machine.cpu_seconds(run.pid) - before < QUIET_CORES * SETTLE_SECONDS:
            return


def storm(bench: Bench, service: Service, work: Work) -> Row:
    """All are live; cut; the messages that they miss; back within a second, each with its Last-Event-ID.

    Of a service that cannot resume, only the time until all are live is measured.
    """
    missed = work.missed
    resumes = "resume" in service.can
    mode = Mode(history=work.conns * (missed + 2) if resumes else 0)
    with (
        bench.start(service, mode) as run,
        bench.clients(run, work.conns, 5 * LIMIT_SECONDS, bench.drain, **work.loads) as client,
    ):
        bench.publish(run, LIMIT_SECONDS, rate=FIRST_RATE, count=work.conns, **work.sends)
        _until_quiet(run)
        client.cut()
        _until_quiet(run)
        count = missed * work.conns
        away = bench.publish(run, LIMIT_SECONDS, rate=AWAY_RATE, count=count, first=1, **work.sends)
        _until_quiet(run)
        cpu = machine.cpu_seconds(run.pid)
        back = client.come_back(RETURN_SECONDS)
        got = client.finish(work.conns * (missed + 1) if resumes else 0)
        cpu = machine.cpu_seconds(run.pid) - cpu
        about = run.about()
    expected = work.conns + away["published"] if resumes else work.conns
    missing = max(expected - got["received"], 0) if resumes else 0
    all_live = back == work.conns
    complete = resumes and all_live and not missing
    return {
        "command": run.shown,
        "about": about,
        "resumes": resumes,
        "live_s": got["live_s"] if all_live else None,
        "caught_up_s": max(got["live_s"], got["last_message_s"]) if complete else None,
        "live_p50_us": got["live_p50_us"],
        "live_p99_us": got["live_p99_us"],
        "back": back,
        "resumed": got["resumed"],
        **account(got, expected, missing, None),
        "behind": away["published"] < count,
        "storm_cpu_s": round(cpu, 2),
        "duplicates": got["duplicates"],
        "refused": got["refused"],
        "load": got,
        "publisher": away,
    }


def storm_with_topics(bench: Bench, service: Service, work: Work) -> Row:
    """The same twice, each in a new process: with clients of one key, and of several."""
    one = storm(bench, service, work.with_one_key())
    row = storm(bench, service, work)
    keys = ("live_s", "caught_up_s", "resumes", "live_p99_us", "missing", "storm_cpu_s", "load")
    return row | {f"one_{key}": one[key] for key in keys}
