"""Who may read what the service counts, and who may administer it."""

from __future__ import annotations

import pytest

from tests.support.inside import settings
from trio_sse.access.operator_tokens import may_administer, may_read_counts

TOKEN = "a-token-of-16-or-more"


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer x", f"Bearer {TOKEN}", "nonsense"])
def test_without_a_token_everybody_may_read_and_nobody_administer(authorization: str) -> None:
    assert may_read_counts(authorization, settings())
    assert not may_administer(authorization, settings(metrics_token=TOKEN))


@pytest.mark.parametrize(
    ("authorization", "may"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        ("", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer \xe9", False),
    ],
)
def test_with_a_token_its_bearers_may(authorization: str, may: bool) -> None:
    assert may_read_counts(authorization, settings(metrics_token=TOKEN)) is may
    assert may_administer(authorization, settings(admin_token=TOKEN)) is may
