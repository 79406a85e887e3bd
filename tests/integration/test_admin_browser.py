"""The live view in a real Chromium."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.test_explain import ADMIN
from tests.support.process import Service, Services

pytestmark = pytest.mark.browser

expect.set_options(timeout=15_000)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(locale="en", viewport={"width": 320, "height": 640})
    page = context.new_page()
    mistakes: list[str] = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("request", lambda request: mistakes.extend([request.url] if ADMIN in request.url else []))
    yield page
    assert mistakes == []
    context.close()


@pytest.fixture
def service(start: Services) -> Service:
    return start(SSE_ADMIN_TOKEN=ADMIN, SSE_ROOT_PATH="/notify")


def opened(service: Service, user: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.request("GET", f"/notify/sse?user_id={user}")
    return connection.getresponse()


def enter(page: Page, service: Service, given: str = ADMIN) -> None:
    """By keyboard alone."""
    page.goto(f"{service.url}/notify/admin")
    page.keyboard.type(given)
    page.keyboard.press("Enter")


def tile(page: Page, name: str, text: str) -> None:
    expect(page.locator(f"[data-tile={name}] dd")).to_have_text(text)


def test_only_who_has_the_token_sees_anything(page: Page, service: Service) -> None:
    enter(page, service, "not-the-token-0123456789")
    expect(page.locator("#token-error")).to_contain_text("SSE_ADMIN_TOKEN")
    expect(page.locator("#view")).to_be_hidden()
    page.keyboard.type(ADMIN)
    page.keyboard.press("Enter")
    tile(page, "streams", "0")
    page.reload()
    tile(page, "streams", "0")
    page.locator("#logout").click()
    expect(page.locator("#token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.evaluate("localStorage.length") == 0


def test_a_user_is_looked_up_and_all_their_streams_are_ended(page: Page, service: Service) -> None:
    stream = opened(service, "ann")
    enter(page, service)
    tile(page, "streams", "1")
    page.fill("#user", "ann")
    page.keyboard.press("Enter")
    expect(page.locator("#answer .verdict")).to_have_text("User ann has 1 open stream.")
    ending = page.get_by_role("button", name="End all streams of this user")
    ending.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_contain_text("user ann")
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    tile(page, "streams", "1")
    ending.focus()
    page.keyboard.press("Enter")
    page.locator("#confirm-yes").click()
    assert b"ended_by_operator" in stream.read()
    expect(page.locator("#answer .verdict")).to_contain_text("an operator had ended it")


def test_it_fits_a_narrow_screen_and_speaks_chinese(page: Page, service: Service) -> None:
    enter(page, service)
    tile(page, "streams", "0")
    page.fill("#user", "ghost")
    page.keyboard.press("Enter")
    expect(page.locator("#answer .verdict")).to_contain_text("no stream at all")
    page.locator("#language").click()
    expect(page.locator("h1")).to_have_text("trio_sse 实时视图")
    expect(page.locator("#answer .verdict")).to_have_text("该用户从未有过流。")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_what_a_user_is_called_is_shown_as_text(page: Page, service: Service) -> None:
    name = "<img src=x onerror=alert(1)>"
    stream = opened(service, "%3Cimg%20src=x%20onerror=alert(1)%3E")
    enter(page, service)
    page.fill("#user", name)
    page.keyboard.press("Enter")
    expect(page.locator("#answer .verdict")).to_contain_text(name)
    assert page.locator("#view img").count() == 0
    stream.close()


def test_a_service_that_is_gone_is_told(page: Page, service: Service) -> None:
    enter(page, service)
    expect(page.locator("#state")).to_have_attribute("data-state", "live")
    service.kill()
    expect(page.locator("#state")).to_have_attribute("data-state", "lost")
