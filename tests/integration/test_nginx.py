"""nginx in front, with the few lines the README gives."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.integration.support.client import eventually, streaming
from tests.integration.support.process import Services, wait_until
from tests.ports import free_port
from trio_sse.embedded import is_answering

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(NGINX is None, reason="no nginx installed"),
]

# Buffering is on, as by default: X-Accel-Buffering switches it off for the stream.
CONFIGURATION = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://127.0.0.1:{back};
            proxy_http_version 1.1;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory: Path, back: int) -> Iterator[int]:
    front = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, front=front, back=back))
    assert NGINX is not None
    process = subprocess.Popen(
        [NGINX, "-p", str(directory), "-c", str(configuration)], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: is_answering(front), "nginx listens")
        yield front
    finally:
        process.terminate()
        process.wait(10)


async def test_a_stream_passes_unbuffered(start: Services, tmp_path: Path) -> None:
    service = start()
    with nginx(tmp_path, service.port) as front:
        async with streaming(front, "7") as stream:  # `connected` came through by itself
            for n in range(3):
                service.publish(7, n=n)
                with trio.fail_after(5):
                    assert (await stream.notification())["n"] == n
        await eventually(lambda: service.connections == 0, "nginx passes the client's leaving on")
