"""Where our HTTP/2 stands. Over sockets: tests/integration/test_http2.py and test_tls.py."""

from __future__ import annotations

import sys

import hypercorn.protocol
import hypercorn.protocol.h2
import pytest
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from structlog.testing import capture_logs

from trio_sse.server.http2 import installing
from trio_sse.server.http2.protocol import ContainedProtocol
from trio_sse.server.upgrades import PlainProtocol


def test_it_stands_in_hypercorn_s_place_for_a_while() -> None:
    with installing.installed():
        assert vars(hypercorn.protocol)["H2Protocol"] is ContainedProtocol
        assert vars(hypercorn.protocol)["H11Protocol"] is PlainProtocol
    assert vars(hypercorn.protocol)["H2Protocol"] is H2Protocol
    assert vars(hypercorn.protocol)["H11Protocol"] is H11Protocol


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (hypercorn.protocol, "H11Protocol"),
        (hypercorn.protocol.h2, "StreamBuffer"),
        (H2Protocol, "_handle_events"),
        (H2Protocol, "send_task"),
        (H11Protocol, "_check_protocol"),
    ],
)
def test_without_a_name_it_relies_on_a_line_says_so_and_hypercorn_s_own_serves(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name)
    for module in ("http2.protocol", "http2.lasting", "http2.bounds", "http2.frames", "upgrades"):
        monkeypatch.delitem(sys.modules, f"trio_sse.server.{module}", raising=False)
    with capture_logs() as logs, installing.installed():
        assert vars(hypercorn.protocol)["H2Protocol"] is H2Protocol
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert name in logs[0]["missing"]
