"""Check the load client against a server whose faults are known: `python benchmarks/check_load.py`.

The server skips messages and says so in gap events, sends some twice, some in the wrong order, and cuts
the stream into HTTP chunks and packets at random places. The client's totals must be exactly the server's.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from load import Tools, load

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


def main() -> int:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10**6)
    chance, totals = random.Random(seed), Counter[str]()
    bodies = [faulty_stream(chance, totals) for _ in range(CONNECTIONS)]
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as folder:

        def accept() -> None:
            for body in bodies:
                client, _ = server.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients.append(client)
                threading.Thread(target=_serve, args=(client, body, random.Random(seed)), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        tools = Tools(Path(folder), None, None)
        with load(tools, server.getsockname()[1], CONNECTIONS, 20, 10, quiet_ms=1000) as running:
            got = running.finish(10**9)
        for client in clients:
            client.close()
    wrong = {key: (got[key], value) for key, value in totals.items() if got[key] != value}
    print(json.dumps({"seed": seed, "totals": totals, "wrong (client, server)": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
