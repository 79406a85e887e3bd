"""Lays out the pages of the docs site: README, docs/, benchmarks, changelog, as they lie in the repository.
So their links hold in both places. Adds a page about the HTTP interface, from its OpenAPI document.

Called with the folder to fill, which is made anew.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIED = ("README*.md", "CHANGELOG.md", "docs/**/*.*", "benchmarks/README.md", "benchmarks/results/*.*")
OPENAPI = ROOT / "trio_sse" / "web" / "openapi.json"

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def lay_out(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in COPIED:
        for source in sorted(ROOT.glob(pattern)):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    shutil.copyfile(OPENAPI, folder / "openapi.json")
    folder.joinpath("docs", "http.md").write_text(http_page(json.loads(OPENAPI.read_text())))
    for page in folder.rglob("*.md"):
        page.write_text(_LINK.sub(partial(_link, page), page.read_text()))


def _link(page: Path, link: re.Match[str]) -> str:
    """The link, or its text alone if it leads to a file that is no part of the site, such as a test."""
    picture, text, path, _ = link.groups()
    if not path or re.match(r"[a-z]+:", path) or page.parent.joinpath(path).is_file():
        return link[0]
    assert not picture, link[0]
    return text


def http_page(document: dict[str, Any]) -> str:
    """All operations of the document, as tables."""
    lines = ["# HTTP interface", "", document["info"]["description"], ""]
    lines += ["A service says by `GET /openapi.json` which of these it has ([all of them](../openapi.json))."]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            lines += ["", f"## {method.upper()} {path}", "", f"{operation['summary']}. "]
            lines[-1] += operation.get("description", "")
            lines += ["", f"Credentials: {_credentials(operation)}."]
            if parameters := operation.get("parameters"):
                lines += ["", "| parameter | in | |", "|---|---|---|"]
                lines += [f"| `{p['name']}` | {p['in']} | {p['description']} |" for p in parameters]
            lines += ["", "| answer | |", "|---|---|"]
            for status, answer in operation["responses"].items():
                reference = answer.get("$ref", "").rpartition("/")[2]
                answer = document["components"]["responses"].get(reference, answer)
                lines.append(f"| {status} | {answer['description']} |")
    return "\n".join(lines) + "\n"


_CREDENTIALS = {
    "streamToken": "a token (JWT) as Bearer",
    "streamCookie": "the same in a cookie",
    "publishToken": "one of `SSE_PUBLISH_TOKENS` as Bearer",
    "metricsToken": "`SSE_METRICS_TOKEN` as Bearer",
    "adminToken": "`SSE_ADMIN_TOKEN` as Bearer",
}


def _credentials(operation: dict[str, Any]) -> str:
    ways = [" and ".join(_CREDENTIALS[name] for name in way) or "none" for way in operation["security"]]
    return ", or ".join(ways)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
