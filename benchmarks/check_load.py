"""Check the load client against a server whose faults are known: `python benchmarks/check_load.py [seed]`.

The server skips messages and says so in gap events, sends some twice, some in the wrong order, and cuts
the stream into HTTP chunks and packets at random places. The client's totals must be exactly the server's.
Then clients are cut and come back: each must ask for what comes after its last message, in the way it was
told, with its own token. All of it without and with TLS, as far as the machine has OpenSSL.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from credentials import SECRET, certificate, tokens_file
from load import Tools, load

Wrong = dict[str, tuple[int, int]]
"""Figures that differ: the client's, the server's."""
CONNECTIONS = 20
MESSAGES = 400
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEARTBEAT = b'event: heartbeat\ndata: {"server_time":"2024-01-01T12:00:00Z"}\n\n'


def _message(number: int, chance: random.Random) -> bytes:
    padding = "x" * chance.choice([0, 0, 10, 5000])
    text = f'"message":"#{number}T{time.monotonic_ns()}T{padding}"'
    return f'id: a-{number}\ndata: {{"user_id":1,{text}}}\n\n'.encode()


def _gap(dropped: str) -> bytes:
    return f'event: gap\ndata: {{"reason":"slow_client","dropped":{dropped}}}\n\n'.encode()


def faulty_stream(chance: random.Random, totals: Counter[str]) -> bytes:
    """The body of one stream; what is in it is added to `totals`."""
    parts = [b"event: connected\ndata: {}\n\n"]
    number = 0
    while number < MESSAGES:
        kind = chance.choice(["gap", "twice", "swapped", "heartbeat", "unknown", *["plain"] * 20])
        if kind == "gap":
            skipped = chance.randint(1, 9)
            parts.append(_gap(str(skipped)))
            number += skipped
            totals.update(gap_events=1, gap_dropped=skipped)
        elif kind == "unknown":
            parts.append(_gap("null"))
            totals.update(gap_events=1, gap_unknown=1)
        elif kind == "heartbeat":
            parts.append(HEARTBEAT * chance.choice([1, 80]))
        elif kind == "swapped":
            parts += [_message(number + 1, chance), _message(number, chance)]
            number += 2
            totals.update(received=2, reordered=1)
        else:
            copies = 2 if kind == "twice" else 1
            parts += [_message(number, chance)] * copies
            number += 1
            totals.update(received=1, duplicates=copies - 1)
    return b"".join(parts)


def _cut(text: bytes, sizes: list[int], chance: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(text):
        size = chance.choice(sizes)
        pieces.append(text[at : at + size])
        at += size
    return pieces


def _serve(client: socket.socket, body: bytes, chance: random.Random) -> None:
    client.recv(4096)
    chunks = (b"%x\r\n%s\r\n" % (len(c), c) for c in _cut(body, [1, 2, 7, 100, 3000, 40000], chance))
    for piece in _cut(HEAD + b"".join(chunks), [1, 3, 50, 1400, 70000], chance):
        client.sendall(piece)


@contextmanager
def _server(serve: Callable[[int, socket.socket], None], context: ssl.SSLContext | None) -> Iterator[int]:
    """A server that calls `serve` with the number of each connection, in a thread; yields its port."""
    clients: list[socket.socket] = []

    def one(number: int, client: socket.socket) -> None:
        with suppress(OSError):  # cut off by the client
            if context:
                client = context.wrap_socket(client, server_side=True)
            clients.append(client)
            serve(number, client)

    def accept() -> None:
        with suppress(OSError):  # closed at the end
            for number in count():
                client, _ = server.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=one, args=(number, client), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])
    for client in clients:
        client.close()


def faults(tools: Tools, seed: int, context: ssl.SSLContext | None) -> Wrong:
    """Streams with faults: the client's totals that are not the server's."""
    chance, totals = random.Random(seed), Counter[str]()
    bodies = [faulty_stream(chance, totals) for _ in range(CONNECTIONS)]

    def serve(number: int, client: socket.socket) -> None:
        _serve(client, bodies[number], random.Random(seed))

    with (
        _server(serve, context) as port,
        load(tools, port, CONNECTIONS, 20, 10, quiet_ms=1000, tls=int(context is not None)) as running,
    ):
        got = running.finish(10**9)
    return {key: (got[key], value) for key, value in totals.items() if got[key] != value}


def returns(tools: Tools, seed: int, context: ssl.SSLContext | None, resume: str, secret: str) -> Wrong:
    """Clients that are cut and come back: totals and requests that are not as they must be."""
    chance, totals = random.Random(seed), Counter[str]()
    lengths = [(chance.randint(1, 20), chance.randint(1, 20)) for _ in range(CONNECTIONS)]
    file = tokens_file(tools.folder, secret, CONNECTIONS)
    tokens = file.read_text().split()
    requests: list[list[str]] = []
    wanted: list[str] = []
    for user, (before, missed) in enumerate(lengths, 1):
        skipped = user % 3 == 0  # one message of what was missed is not replayed
        totals.update(received=before + missed - skipped, holes=int(skipped and missed > 1), resumed=1)
        place = f"e{user}/{user}-{before - 1}" if resume else f"{user}-{before - 1}"
        wanted.append(f"{user} {tokens[user - 1]} {place}")

    def serve(_: int, client: socket.socket) -> None:
        head = client.recv(65536).decode()
        user = int(re.search(r"user=(\d+)", head)[1])  # type: ignore[index]
        before, missed = lengths[user - 1]
        given = re.search(r"at=(\S+)" if resume else r"Last-Event-ID: (\S+)", head)
        bearer = re.search(r"Bearer (\S+)", head)
        numbers = range(before, before + missed) if given else range(before)
        if given:
            requests.append([str(user), bearer[1] if bearer else "", given[1]])
        body = b'event: connected\ndata: {"epoch":"e%d"}\n\n' % user
        for number in numbers:
            if not (given and user % 3 == 0 and number == before):
                body += b'id: %d-%d\ndata: {"message":"#%dT1T"}\n\n' % (user, number, number)
        for piece in _cut(HEAD + b"%x\r\n%s\r\n" % (len(body), body), [1, 3, 50], chance):
            client.sendall(piece)

    args = {
        "path": "/sse?user={user}",
        "header": "Authorization: Bearer {token}",
        "tokens": file,
        "users": CONNECTIONS,
        "id_mark": "\nid: ",
        "epoch_mark": '"epoch":"',
        "resume_path": resume,
        "tls": int(context is not None),
        "quiet_ms": 1000,
    }
    with _server(serve, context) as port, load(tools, port, CONNECTIONS, 20, 5, **args) as running:
        time.sleep(0.5)  # the messages before the cut arrive
        running.cut()
        back = running.come_back(0.2)
        got = running.finish(10**9) | {"back": back}
    totals["back"] = CONNECTIONS
    wrong: Wrong = {key: (got[key], value) for key, value in totals.items() if got[key] != value}
    for line in sorted(set(wanted) ^ {" ".join(parts) for parts in requests}):
        wrong[f"request {line}"] = (int(line not in wanted), int(line in wanted))
    return wrong


def main() -> int:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    wrong: dict[str, Wrong] = {}
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(Path(folder), None, None)
        contexts: dict[str, ssl.SSLContext | None] = {"plain": None}
        files = certificate(Path(folder)) if tools.tls else None
        if files:
            contexts["TLS"] = tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*files)
        for name, context in contexts.items():
            wrong[f"faults, {name}"] = faults(tools, seed, context)
            for way, resume in (("Last-Event-ID", ""), ("path", "/again?user={user}&at={epoch}/{id}")):
                wrong[f"returns by {way}, {name}"] = returns(tools, seed, context, resume, SECRET)
    print(json.dumps({"seed": seed, "wrong (client, server)": wrong}, indent=1))
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
