"""The redis-cli command that reaches a Redis."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

from trio_sse.broker.link import Link
from trio_sse.settings import Settings
from trio_sse.settings.redis_url import RedisServer


def command(server: RedisServer, *words: str, password: str, follow: bool = False) -> str:
    """A shell command that sends `words` to that server and database, or, with `follow`, to the node of its
    cluster that serves them. If the server has a password, `password` stands in its place; it must be quoted
    for the shell."""
    login = f" -a {password}" if server.password else ""
    cluster = ["-c"] if follow else []
    return f"{shlex.join(['redis-cli', *cluster, *_address(server)])}{login} {shlex.join(words)}"


def command_over(settings: Settings, link: Link, *words: str) -> str:
    """`command` for the server that a link reaches, with the database in use."""
    password = '"$REDIS_PASSWORD"' if settings.redis_url is None else "'<password>'"
    follow = bool(settings.redis_cluster)
    return command(reached(settings, link), *words, password=password, follow=follow)


def reached(settings: Settings, link: Link) -> RedisServer:
    """The configured server, with the address that Sentinel or a cluster named, and the database in use."""
    server = replace(settings.redis_server, database=int(link.db))
    return server if server.path is not None else replace(server, host=link.host, port=int(link.port))


def _address(server: RedisServer) -> Iterator[str]:
    if server.path is not None:
        yield from ("-s", server.path)
    else:
        yield from ("-h", server.host, "-p", str(server.port))
    if server.database:
        yield from ("-n", str(server.database))
    if server.tls is not None:
        yield "--tls"
        if server.tls.get("ssl_cert_reqs") == "none":
            yield "--insecure"
        for option, name in _TLS.items():
            if name in server.tls:
                yield from (option, server.tls[name])
    if server.username:
        yield from ("--user", server.username)


_TLS = {
    "--cacert": "ssl_ca_certs",
    "--cacertdir": "ssl_ca_path",
    "--cert": "ssl_certfile",
    "--key": "ssl_keyfile",
}
