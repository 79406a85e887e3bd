"""Start the installed `trio-sse` on free ports and fetch `/` from it. Exit code 0: it is the test page."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


port = free_port()
environment = {
    "PATH": os.environ["PATH"],
    "SSE_HOST": "127.0.0.1",
    "SSE_PORT": str(port),
    "REDIS_PORT": str(free_port()),
}
service = subprocess.Popen([Path(sys.executable).with_name("trio-sse")], env=environment)
try:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                page = answer.read()
            break
        except OSError:
            if time.monotonic() > deadline or service.poll() is not None:
                raise
            time.sleep(0.1)
finally:
    service.terminate()
    code = service.wait(10)
sys.exit(0 if b"EventSource" in page and code == 0 else "not the test page, or a bad end")
