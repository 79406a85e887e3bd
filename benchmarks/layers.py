"""What one idle connection costs, layer by layer: memory and CPU of the server, memory of the kernel.

    python benchmarks/layers.py [connections]
    python benchmarks/layers.py --parts

Each layer is a server of its own that answers `GET /sse` with a greeting and then waits for the client to
leave. Prints a Markdown table: KB and microseconds per connection. Then what one more key costs a stream of
trio_sse: a topic of its own, and one that all follow. With `--parts` it prints what one idle stream in the
fleet holds, by object and by the file that allocated it.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve()
GREETING = b"retry: 3000\nevent: connected\ndata: {}\n\n"
REQUEST = "GET /sse?user_id={}{} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
FURTHER_KEYS = 20

BARE_TRIO = """
import sys, trio
GREETING = %r
async def handle(stream):
    await stream.receive_some(65536)
    async with trio.open_nursery() as nursery:
        channel = trio.open_memory_channel(10)
        await stream.send_all(GREETING)
        await stream.receive_some(1)
        nursery.cancel_scope.cancel()
async def main():
    listeners = await trio.open_tcp_listeners(int(sys.argv[1]), host="127.0.0.1", backlog=4096)
    await trio.serve_listeners(handle, listeners)
trio.run(main)
"""

BARE_FLEET = """
import os, select, socket, sys, trio
GREETING = %r
class Stream:
    __slots__ = ("fd",)
    def __init__(self, fd):
        self.fd = fd
async def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    listener.setblocking(False)
    epoll, streams = select.epoll(), {}
    epoll.register(listener, select.EPOLLIN)
    while True:
        await trio.lowlevel.wait_readable(epoll.fileno())
        for fd, _ in epoll.poll(0, 64):
            if fd == listener.fileno():
                accepted = listener.accept()[0]
                accepted.setblocking(False)
                fd = accepted.detach()
                streams[fd] = Stream(fd)
                epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
            elif os.read(fd, 65536):
                os.write(fd, GREETING)
            else:
                epoll.unregister(fd)
                del streams[fd]
                os.close(fd)
trio.run(main)
"""

BARE_ASGI = """
GREETING = %r
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": GREETING, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
"""

BARE_QUART = """
import trio
from quart import Response
from quart_trio import QuartTrio
GREETING = %r
app = QuartTrio("layers")
@app.get("/sse")
async def sse():
    async def body():
        yield GREETING
        await trio.sleep_forever()
    response = Response(body(), content_type="text/event-stream")
    response.timeout = None
    return response
"""


def hypercorn(app: str) -> list[str]:
    return [sys.executable, "-m", "hypercorn", "-k", "trio", "-w", "0", "--backlog", "4096", app, "-b"]


DIRECT = "trio_sse, on its own socket: the fleet"
LAYERS = {
    "One task of Trio for all sockets: an epoll descriptor, an object each": (
        "bare_fleet.py",
        BARE_FLEET,
        None,
    ),
    DIRECT: ("", "", None),
    "Trio: a task, a nursery, a memory channel": ("bare_trio.py", BARE_TRIO, None),
    "Hypercorn: a bare ASGI application": ("bare_asgi.py", BARE_ASGI, hypercorn("bare_asgi:app")),
    "Quart-Trio under Hypercorn: a bare stream": ("bare_quart.py", BARE_QUART, hypercorn("bare_quart:app")),
    "trio_sse, by way of Quart": ("", "", None),
}


@contextmanager
def server(name: str, folder: Path, port: int) -> Iterator[int]:
    """Start a layer on `port`; yields its process id."""
    file, source, command = LAYERS[name]
    environment = dict(os.environ, REDIS_HOST="127.0.0.1", REDIS_PORT="1", SSE_LOG_LEVEL="error")
    if file:
        (folder / file).write_text(source % GREETING)
    if file in ("bare_trio.py", "bare_fleet.py"):
        line = [sys.executable, str(folder / file), str(port)]
    elif name.startswith("trio_sse"):
        environment["SSE_DIRECT"] = str("Quart" not in name)
        line = [*hypercorn("trio_sse:app"), f"127.0.0.1:{port}"]
    else:
        assert command is not None
        line = [*command, f"127.0.0.1:{port}"]
    process = subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def parts(count: int) -> None:
    """Open streams in this process, and print what each of them holds."""
    import tracemalloc

    import trio

    from trio_sse.access.admission import Accepted
    from trio_sse.delivery.resume import Start
    from trio_sse.server.fleet import Fleet, Opening
    from trio_sse.server.poller import Poller
    from trio_sse.service import Service
    from trio_sse.settings import Settings

    async def fill() -> None:
        service = Service(Settings())
        poller = Poller(lambda error: sys.exit(repr(error)))
        fleet = Fleet(service, poller)
        pairs = [socket.socketpair() for _ in range(count)]
        fds = [near.detach() for near, _ in pairs]
        tracemalloc.start()
        for number, fd in enumerate(fds):
            fleet.open(fd, Opening(Accepted(str(number), Start(), ()), b"", True))
        traced = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(False, file) for file in (tracemalloc.__file__, str(HERE))]
        )
        tracemalloc.stop()
        connection, stream = service.hub.connections[-1], next(iter(poller._watched.values()))
        print("| object | bytes |\n|---|---:|")
        for what, thing in (("Stream", stream), ("Connection", connection), ("user id", connection.follows)):
            print(f"| {what} | {sys.getsizeof(thing)} |")
        tables = {
            "users: the hub": sys.getsizeof(service.hub._followers),
            "descriptors: the poller": sys.getsizeof(poller._watched),
            "heartbeats: the wheel": sum(map(sys.getsizeof, service.hub._wheel._slots)),
        }
        for what, size in tables.items():
            print(f"| its place in a table of {what} | {size / count:.0f} |")
        print("\n| allocated in | bytes |\n|---|---:|")
        for line in traced.statistics("filename")[:8]:
            if line.size > 2 * count:
                print(f"| {Path(line.traceback[0].filename).name} | {line.size / count:.0f} |")
        poller.close()

    trio.run(fill)


def resident_kb(pid: int) -> int:
    return next(
        int(row.split()[1]) for row in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in row
    )


def cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def kernel_kb() -> int:
    """Slab and socket memory of the whole machine: both ends of a loopback connection are in it."""
    slab = next(
        int(r.split()[1]) for r in Path("/proc/meminfo").read_text().splitlines() if r.startswith("Slab:")
    )
    pages = next(r for r in Path("/proc/net/sockstat").read_text().splitlines() if r.startswith("TCP:"))
    return slab + int(pages.split()[-1]) * os.sysconf("SC_PAGE_SIZE") // 1024


Query = Callable[[int], str]
"""What the query of stream number N has beside its user."""


def nothing(_: int) -> str:
    return ""


def own_topics(number: int) -> str:
    return "".join(f"&topic=orders/{number * FURTHER_KEYS + i}" for i in range(FURTHER_KEYS))


def shared_topics(_: int) -> str:
    return own_topics(0)


def connect(port: int, count: int, query: Query = nothing) -> list[socket.socket]:
    """Open `count` streams, 64 at a time, each until its greeting has come."""
    opened: list[socket.socket] = []
    waiting: dict[int, socket.socket] = {}
    poll = select.epoll()
    while len(opened) < count:
        while len(waiting) < 64 and len(opened) + len(waiting) < count:
            sock = socket.create_connection(("127.0.0.1", port))
            number = len(opened) + len(waiting)
            sock.sendall(REQUEST.format(number, query(number)).encode())
            waiting[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        for fd, _ in poll.poll():
            if b"connected" in waiting[fd].recv(65536):
                poll.unregister(fd)
                opened.append(waiting.pop(fd))
    return opened


def measure(name: str, folder: Path, count: int, query: Query = nothing) -> tuple[float, float, float]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with server(name, folder, port) as pid:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        for sock in connect(port, 200, query):  # whatever is made once is made now
            sock.close()
        time.sleep(0.5)
        before = resident_kb(pid), cpu_us(pid), kernel_kb()
        opened = connect(port, count, query)
        after = resident_kb(pid), cpu_us(pid), kernel_kb()
        for sock in opened:
            sock.close()
    kb, us, kernel = ((b - a) / count for a, b in zip(before, after, strict=True))
    return kb, us, kernel


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:] == ["--parts"]:
        parts(4000)
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"`python benchmarks/layers.py {count}`\n")
    print("| layer | KB resident | us of CPU | KB in the kernel, both ends |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in LAYERS:
            kb, us, kernel = measure(name, Path(folder), count)
            print(f"| {name} | {kb:.1f} | {us:.0f} | {kernel:.1f} |", flush=True)
        print(f"\n| one more key, of {FURTHER_KEYS} | bytes resident | us of CPU |\n|---|---:|---:|")
        one = measure(DIRECT, Path(folder), count)
        for name, query in (("a topic of its own", own_topics), ("a topic that all follow", shared_topics)):
            several = measure(DIRECT, Path(folder), count, query)
            kb, us = ((several[i] - one[i]) / FURTHER_KEYS for i in (0, 1))
            print(f"| {name} | {kb * 1024:.0f} | {us:.1f} |", flush=True)


if __name__ == "__main__":
    main()
