"""What all pages of this package have in common."""

from __future__ import annotations

import pytest

from tests.support.inside import client_of, settings
from trio_sse.service import Service

TOKEN = "the token of an operator"


@pytest.mark.parametrize("path", ["/", "/admin", "/doctor"])
async def test_each_is_told_its_prefix_and_may_load_nothing_but_itself(path: str) -> None:
    client = client_of(Service(settings(admin_token=TOKEN, doctor=True, root_path="/a&b")))
    response = await client.get(path)
    assert response.content_type == "text/html; charset=utf-8"
    assert b'<meta name="root-path" content="/a&amp;b">' in await response.get_data()
    assert response.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert response.headers["cache-control"] == ("no-store" if path == "/doctor" else "no-cache")
