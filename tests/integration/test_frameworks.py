"""The React hook and the Vue composable of docs/front-ends.md, in a real Chromium."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.process import Services, wait_until
from tests.support.programs import npm_install, program
from tests.support.tools import tool

pytestmark = pytest.mark.browser

MOUNT = {
    "React": """
import {{ StrictMode, createElement }} from "react";
import {{ createRoot }} from "react-dom/client";
import {{ Parcels }} from "./parcels.jsx";
const root = createRoot(document.getElementById("root"));
root.render(createElement(StrictMode, null, createElement(Parcels, {{ url: "{url}" }})));
window.leave = () => root.unmount();
""",
    "Vue": """
import {{ createApp }} from "vue";
import {{ Parcels }} from "./parcels.jsx";
const app = createApp(Parcels, {{ url: "{url}" }});
app.mount("#root");
window.leave = () => app.unmount();
""",
}
BUILD = """
import { build } from "esbuild";
await build({
  entryPoints: ["main.js"], bundle: true, jsx: "automatic", outfile: "bundle.js", logLevel: "warning",
  define: { "process.env.NODE_ENV": '"development"' },
});
"""
PACKAGES = {"React": ("react", "react-dom"), "Vue": ("vue",)}


@pytest.mark.parametrize("framework", MOUNT)
def test_it_shows_what_comes_and_leaves(
    browser: Browser, start: Services, tmp_path: Path, framework: str
) -> None:
    service = start()
    npm_install(tmp_path, "esbuild", *PACKAGES[framework])
    url = f"{service.url}/sse?user_id=1&topic=orders/17"
    tmp_path.joinpath("parcels.jsx").write_text(program("front-ends.md", framework, {}))
    tmp_path.joinpath("main.js").write_text(MOUNT[framework].format(url=url))
    tmp_path.joinpath("build.mjs").write_text(BUILD)
    build = [tool("node"), "build.mjs"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page_file = tmp_path / "page.html"
    page_file.write_text("<!doctype html><div id=root></div><script src=bundle.js></script>")

    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    expect(page.locator("section")).to_have_attribute("data-connected", "true")
    # React's StrictMode opens two and closes one.
    wait_until(lambda: service.connections == 1, "one stream is open")
    service.publish(1, message="parcel shipped")
    service.publish(None, topic="orders/17", event="shipped", parcels=2)
    expect(page.locator("p")).to_have_count(2)
    expect(page.locator("p").nth(0)).to_contain_text("parcel shipped")
    expect(page.locator("p").nth(1)).to_contain_text('shipped {"')
    page.evaluate("leave()")
    wait_until(lambda: service.connections == 0, "it has left")
    assert not errors
    page.close()
