"""Chromium's own EventSource, by Playwright: `chromium.py EXECUTABLE URLS` prints what it dispatches.

A process of its own: Playwright wants asyncio's loop, and importing trio_asyncio changes that.
"""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    # A browser opens six connections to a host, so every user has a host of his own.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


def main(executable: str, urls: str) -> None:
    """Until stdin is closed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        page = browser.new_page()
        page.add_script_tag(path=Path(__file__).with_name("watch.js"))
        page.evaluate(
            "urls => { globalThis.seen = []; watch(EventSource, urls, one => seen.push(one)) }",
            json.loads(urls),
        )
        while not select.select([sys.stdin], [], [], 0)[0]:
            page.wait_for_timeout(50)
            for one in page.evaluate("seen.splice(0)"):
                print(json.dumps(one))
            sys.stdout.flush()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
