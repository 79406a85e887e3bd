"""Fixtures of the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    # Without QUIC: where a proxy offers it, a page would come by another version of HTTP on a second visit.
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]
    # Importing trio_sse imports trio_asyncio, whose loops run on Trio. Playwright wants asyncio's own.
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            yield browser
            browser.close()
    finally:
        asyncio.set_event_loop_policy(None)
