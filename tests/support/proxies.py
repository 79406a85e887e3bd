"""Real proxies in front of the service, each a process of its own: nginx, Caddy, HAProxy and Apache."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests.support.tools import ROOT, listening, tool

OPERATING = (ROOT / "docs" / "operating.md").read_text()

APACHE_MODULES = Path("/usr/lib/apache2/modules")
_MODULES = (
    "mpm_event authn_core authz_core proxy proxy_http setenvif headers deflate filter ssl http2 socache_shmcb"
)


def block(language: str) -> str:
    """The lines that docs/operating.md has for a proxy."""
    return OPERATING.split(f"```{language}\n")[1].split("```")[0]


_NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{
        {server}
    }}
}}
"""


def nginx(directory: Path, server: str, port: int) -> contextlib.AbstractContextManager[int]:
    """nginx with these lines in its `server`, among them where it listens."""
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, server=server))
    return listening([tool("nginx"), "-p", str(directory), "-c", str(configuration)], port, directory)


def caddy(directory: Path, text: str, port: int) -> contextlib.AbstractContextManager[int]:
    """Caddy with this Caddyfile."""
    file = directory / "Caddyfile"
    file.write_text(
        f"{{\n    admin off\n    auto_https disable_redirects\n    skip_install_trust\n}}\n{text}"
    )
    return caddy_with(file, directory, port)


def caddy_with(
    file: Path, directory: Path, port: int, **environment: str
) -> contextlib.AbstractContextManager[int]:
    """Caddy with the Caddyfile of this name. It is killed: it would wait for the streams."""
    argv = [tool("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]
    return listening(argv, port, directory, signal.SIGKILL, **environment)


def haproxy(directory: Path, text: str, port: int) -> contextlib.AbstractContextManager[int]:
    """HAProxy with this configuration."""
    file = directory / "haproxy.cfg"
    file.write_text(text)
    return listening([tool("haproxy"), "-db", "-f", str(file)], port, directory)


def apache(directory: Path, text: str, port: int) -> contextlib.AbstractContextManager[int]:
    """Apache with these lines, and the modules that they may need."""
    tool("apache2")
    modules = "".join(
        f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n"
        for name in _MODULES.split()
        if (APACHE_MODULES / f"mod_{name}.so").exists()
    )
    file = directory / "apache.conf"
    file.write_text(
        f"ServerRoot {directory}\nServerName localhost\nPidFile {directory}/apache.pid\n"
        f"ErrorLog {directory}/error.log\nDefaultRuntimeDir {directory}\n{modules}Timeout 300\n{text}"
    )
    return listening(
        [tool("apache2"), "-D", "FOREGROUND", "-f", str(file)],
        port,
        directory,
        APACHE_RUN_DIR=str(directory),
        APACHE_LOG_DIR=str(directory),
    )
