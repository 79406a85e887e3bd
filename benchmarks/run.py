"""Measure the service and its peers side by side, in one run.

Everything runs on the loopback address of this machine and stops by itself. Tables go to standard
output and, with the raw figures and a chart, into the output folder.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import chart
import machine
import report
from bench import Bench, Row
from builds import CENTRIFUGO_VERSION, program
from catalogue import SERVICES
from connects import HEARTBEAT_SECONDS
from credentials import certificate
from load import Tools, compiler_path
from measure import has_floor, measure, measure_floor
from redis_server import running_redis
from services import Service
from storms import RETURN_SECONDS
from works import WORKS, Work

HERE = Path(__file__).resolve().parent


def _names(text: str, known: list[str]) -> list[str]:
    """The known names that comma-separated words choose: the name itself, or all that begin with the word."""
    chosen: set[str] = set()
    for word in filter(None, (w.strip() for w in text.split(","))):
        found = [n for n in known if n == word] or [n for n in known if n.startswith(word)]
        if not found:
            raise argparse.ArgumentTypeError(f"{word!r} is none of: {', '.join(known)}")
        chosen.update(found)
    return [n for n in known if n in chosen]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parser() -> argparse.ArgumentParser:
    services, works = ["floor", *(s.name for s in SERVICES)], [w.name for w in WORKS]
    listing = "services:\n  floor                bare send() loop in C\n"
    listing += "".join(f"  {s.name:<20} {s.title}{' (peer)' if s.peer else ''}\n" for s in SERVICES)
    listing += "works:\n" + "".join(f"  {w.name:<20} {w.title}\n" for w in WORKS)
    listing += "\nexample: python benchmarks/run.py --quick --services trio-sse,go,floor --works fan,idle"
    p = argparse.ArgumentParser(
        prog="run.py",
        description=__doc__,
        epilog=listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--services",
        metavar="A,B",
        type=lambda t: _names(t, services),
        default=services,
        help="which to measure, by name or beginning of a name (all that can run here)",
    )
    p.add_argument(
        "--works",
        metavar="A,B",
        type=lambda t: _names(t, works),
        default=works,
        help="what to measure, by name or beginning of a name (all)",
    )
    p.add_argument(
        "--quick", action="store_true", help="2 s of traffic instead of 8 s: to try out, not to compare"
    )
    p.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=HERE / "results",
        help="where results.json, results.md and results.png go (benchmarks/results)",
    )
    p.add_argument("--service-core", metavar="N", type=int, default=0, help="core of the service (0)")
    p.add_argument(
        "--load-core", metavar="N", type=int, default=1, help="core of load client, publisher, Redis (1)"
    )
    p.add_argument("--no-pin", action="store_true", help="leave the cores to the scheduler")
    p.add_argument(
        "--env",
        metavar="NAME=VALUE",
        type=_setting,
        action="append",
        default=[],
        help="a further setting for the service under test, not its peers; may be repeated",
    )
    return p


def _chosen(names: list[str]) -> tuple[list[Service], list[str]]:
    """The chosen services that can run here, and one line for each that cannot."""
    able, notes = [], []
    for service in (s for s in SERVICES if s.name in names):
        reason = service.missing()
        if reason:
            notes.append(f"left out: {service.title}: {reason}")
        else:
            able.append(service)
    return able, notes


def _notes(args: argparse.Namespace, pin: bool, services: list[Service], files: int) -> list[str]:
    notes = []
    if pin:
        notes.append(
            f"service on core {args.service_core}; load client, publisher and Redis on core {args.load_core}"
        )
    else:
        notes.append("nothing is pinned to a core")
    if any(s.workers > 1 for s in services):
        notes.append("services of 2 workers are not pinned: they share both cores with the load")
    if any(s.publish == "nchan" for s in services):
        notes.append(
            "nginx + nchan gets its messages by HTTP POST, pipelined, and not through Redis: its own Redis "
            "mode speaks another protocol"
        )
    if any(s.publish == "centrifugo" for s in services):
        notes.append(
            "Centrifugo gets its messages by its HTTP batch API: it has protocols of its own on Redis"
        )
    notes.append(f"idle works: SSE_HEARTBEAT_SECONDS={HEARTBEAT_SECONDS}, CPU over two heartbeats")
    notes.append(f"limit of open files: {files}")
    if args.quick:
        notes.append("--quick: short runs, to try out and not to compare")
    notes += [f"setting of the service under test: {name}={value}" for name, value in args.env]
    return notes


def _how(work: Work, bench: Bench, unable: list[str]) -> str:
    late = f"late ones awaited for {bench.drain:g} s"
    size = f", {work.pad:,} bytes of padding" if work.pad else ""
    text = {
        "idle": f"CPU over {2 * HEARTBEAT_SECONDS} s with SSE_HEARTBEAT_SECONDS={HEARTBEAT_SECONDS}.",
        "max": f"{bench.length(work):g} s at each rate, in a new process. A rate may fail once.",
        "storm": f"They return spread over {RETURN_SECONDS:g} s, whether or not the service keeps up. "
        "A service that cannot resume has only to get them all live.",
        "tokens": "Two runs, each in a new process.",
        "topics": f"Two runs, each in a new process, with {bench.length(work):g} s of messages; {late} more. "
        "One key: the streams follow a user alone, whom the messages are for.",
        "storm topics": f"Two runs, each in a new process. They return spread over {RETURN_SECONDS:g} s.",
    }.get(work.kind, f"{bench.length(work):g} s of messages{size}; {late} more.")
    if work.count:
        text = f"{work.count:,} messages as fast as they are taken; {late}."
    if work.tls:
        text += " TLS 1.3, a certificate with a P-256 key, full handshakes."
    return text + (f" They cannot: {', '.join(unable)}." if unable else "")


def _run(
    bench: Bench, works: list[Work], services: list[Service], with_floor: bool, results: dict[str, Any]
) -> None:
    """Measure work by work, the floor first, so that what is compared was measured within minutes."""
    for work in works:
        rows: list[Row] = []
        able = [s for s in services if work.needs <= s.can]
        entry = {
            "name": work.name,
            "title": work.title,
            "kind": work.kind,
            "rate": work.rate,
            "conns": work.conns,
            "users": work.users,
            "pad": work.pad,
            "topics": work.topics,
            "count": work.count,
            "how": _how(work, bench, [s.title for s in services if s not in able]),
            "rows": rows,
        }
        results["works"].append(entry)
        if with_floor and has_floor(work):
            rows.append(measure_floor(bench, work))
        for service in able:
            print(f"... {work.name}: {service.title}", file=sys.stderr, flush=True)
            rows.append(measure(bench, service, work))
        print("\n".join(report.work_lines(entry)), flush=True)


def main() -> int:
    args = parser().parse_args()
    if not sys.platform.startswith("linux"):
        print("the benchmarks need Linux (epoll, /proc)", file=sys.stderr)
        return 2
    if not compiler_path():
        print(
            "no C compiler (cc, gcc or clang) on the PATH: the load client cannot be built", file=sys.stderr
        )
        return 2
    allowed = os.sched_getaffinity(0)
    wanted = {args.service_core, args.load_core}
    pin = not args.no_pin and len(wanted) == 2 and wanted <= allowed
    service_cores, load_cores = ({args.service_core}, {args.load_core}) if pin else (None, None)
    works = [w for w in WORKS if w.name in args.works]
    services, left_out = _chosen(args.services)
    files = machine.raise_file_limit()
    works_before = len(works)
    works = [w for w in works if w.conns + 200 < files]
    if len(works) < works_before:
        left_out.append(
            f"left out: works with more connections than the limit of open files ({files}) allows"
        )
    for line in left_out:
        print(line, file=sys.stderr)
    seconds = sum(w.about[args.quick] * sum(w.needs <= s.can for s in services) for w in works)
    print(f"{len(works)} works, {len(services)} services: about {seconds / 60:.0f} minutes", file=sys.stderr)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started then, too
    folder = Path(tempfile.mkdtemp(prefix="trio_sse_bench."))
    results: dict[str, Any] = {"meta": {}, "works": []}
    try:
        tools = Tools(folder, service_cores, load_cores)
        with running_redis(folder, load_cores) as redis:
            bench = Bench(tools, redis, folder, files, args.quick, dict(args.env), certificate(folder))
            if not (tools.tls and bench.certificate):
                reason = "the openssl command" if tools.tls else "the headers of OpenSSL (libssl-dev)"
                left_out.append(f"left out: works over TLS: {reason} not installed")
                works = [w for w in works if not w.tls]
                print(left_out[-1], file=sys.stderr)
            where = {name: program(name) for name in ("go", "cargo", "node", "nginx")}
            where["cc"] = compiler_path()
            results["meta"] = {
                "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
                "command": " ".join(["python benchmarks/run.py", *sys.argv[1:]]).replace(
                    str(args.output), args.output.name
                ),
                "notes": _notes(args, pin, services, files) + left_out,
                "versions": machine.versions(where)
                | {"redis server": redis.version, "centrifugo": CENTRIFUGO_VERSION},
            }
            _run(bench, works, services, "floor" in args.services, results)
    except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was measured is written", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if results["works"]:
            report.write(results, args.output)
            problem = chart.draw(results, args.output)
            chart_name = f"no chart: {problem}" if problem else "results.png"
            print(f"in {args.output.name}: results.json, results.md, {chart_name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
