"""The docs site has every page of the repository, once, and no other."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SITE = tomllib.loads(ROOT.joinpath("zensical.toml").read_text())["project"]


@pytest.fixture(scope="module")
def docs_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / ".ci" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(docs_pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    docs_pages.lay_out(folder)
    return folder


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav if isinstance(nav, list) else list(nav.values())
    return [leaf for part in parts for leaf in leaves(part)]


def test_each_page_is_in_the_navigation_once(pages: Path) -> None:
    there = {str(path.relative_to(pages)) for path in pages.rglob("*.md")}
    assert sorted(leaves(SITE["nav"])) == sorted(there)


def test_no_link_leads_out_of_the_site(pages: Path) -> None:
    for page in pages.rglob("*.md"):
        for path in re.findall(r"\]\(([^)\s#:]+)[#)]", page.read_text()):
            assert page.parent.joinpath(path).is_file(), (page, path)


def test_the_page_of_the_http_interface_has_every_operation(docs_pages: ModuleType) -> None:
    document = {
        "info": {"description": "All."},
        "components": {"responses": {"Bad": {"description": "It is bad"}}},
        "paths": {
            "/one": {
                "post": {
                    "summary": "Does it",
                    "security": [{"publishToken": []}, {}],
                    "parameters": [{"name": "how", "in": "query", "description": "In which way"}],
                    "responses": {
                        "200": {"description": "Done"},
                        "400": {"$ref": "#/components/responses/Bad"},
                    },
                }
            }
        },
    }
    page = docs_pages.http_page(document)
    for part in ("## POST /one", "Does it.", "| `how` | query | In which way |", "| 200 | Done |"):
        assert part in page
    assert "| 400 | It is bad |" in page
    assert "Credentials: one of `SSE_PUBLISH_TOKENS` as Bearer, or none." in page
