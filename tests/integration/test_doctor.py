"""`/doctor` in a real Chromium, behind real proxies: with their defaults it finds what is wrong, with the
lines of docs/operating.md nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import trio_sse
from tests.support import proxies
from tests.support.ports import free_port
from tests.support.process import Service, Services
from tests.support.valkeys import certificate

pytestmark = pytest.mark.browser

PATIENCE_MILLISECONDS = 15_000
MEASURING_MILLISECONDS = 90_000
CHECKS = (
    *("reach", "buffering", "compression", "idle", "lifetime", "http", "fields", "host", "address"),
    *("cookie", "cors", "clock"),
)
PAGE = Path(trio_sse.__file__).with_name("doctor.html").read_text()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    contexts = []
    errors: list[str] = []

    def open_page(url: str, **options: object) -> Page:
        context = browser.new_context(ignore_https_errors=True, **{"locale": "en-US", **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/doctor")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def measure(page: Page, proxy: str = "") -> None:
    if proxy:
        page.get_by_label("In front of the service").select_option(proxy)
    page.get_by_role("button", name="Measure").click()


def results(page: Page) -> dict[str, str]:
    """The state of each check, when all is measured."""
    expect(page.get_by_test_id("verdict")).not_to_be_empty(timeout=MEASURING_MILLISECONDS)
    states = {name: page.get_by_test_id(f"check-{name}").get_attribute("data-state") for name in CHECKS}
    return {name: state or "" for name, state in states.items()}


def found(page: Page) -> dict[str, str]:
    """What is to be looked at."""
    return {name: state for name, state in results(page).items() if state in ("warn", "bad")}


def said(page: Page, name: str) -> str:
    return page.get_by_test_id(f"check-{name}").locator(".said").inner_text()


def cure(page: Page, name: str) -> str:
    return page.get_by_test_id(f"check-{name}").locator(".lines").inner_text()


def doctored(start: Services, **settings: Any) -> Service:
    return start(SSE_DOCTOR="true", **settings)


TLS_LISTEN = "listen 127.0.0.1:{port} ssl http2;\n ssl_certificate {cert};\n ssl_certificate_key {key};\n"


def nginx_by_the_docs(directory: Path, back: int, cert: Path, key: Path) -> tuple[str, int]:
    location = proxies.block("nginx").replace("127.0.0.1:8085", f"127.0.0.1:{back}")
    page = location.replace("location /sse", "location = /doctor")
    return TLS_LISTEN.format(port=(port := free_port()), cert=cert, key=key) + location + page, port


def caddy_by_the_docs(directory: Path, back: int, cert: Path, key: Path) -> tuple[str, int]:
    port = free_port()
    lines = proxies.block("caddy").replace("127.0.0.1:8085", f"127.0.0.1:{back}")
    opening = (
        f"https://127.0.0.1:{port} {{\n    tls {cert} {key}\n    reverse_proxy /doctor 127.0.0.1:{back}\n"
    )
    assert lines.startswith("example.com {\n")
    return lines.replace("example.com {\n", opening), port


def haproxy_by_the_docs(directory: Path, back: int, cert: Path, key: Path) -> tuple[str, int]:
    port = free_port()
    pem = directory / "both.pem"
    pem.write_text(cert.read_text() + key.read_text())
    lines = proxies.block("haproxy").replace("127.0.0.1:8085", f"127.0.0.1:{back}")
    return lines.replace("/etc/haproxy/example.pem", str(pem)).replace(
        "bind :443", f"bind 127.0.0.1:{port}"
    ), port


def apache_by_the_docs(directory: Path, back: int, cert: Path, key: Path) -> tuple[str, int]:
    port = free_port()
    lines = proxies.block("apache").replace("127.0.0.1:8085", f"127.0.0.1:{back}")
    page = f'ProxyPass "/doctor" "http://127.0.0.1:{back}/doctor"\n'
    tls = f"SSLEngine on\nSSLCertificateFile {cert}\nSSLCertificateKeyFile {key}\n"
    return f"Listen 127.0.0.1:{port}\n<VirtualHost *:{port}>\n{tls}{lines}{page}</VirtualHost>\n", port


SILENT = ("haproxy", "apache")
"""Those that say nothing of themselves, so that the user has to."""

BY_THE_DOCS = {
    proxies.nginx: nginx_by_the_docs,
    proxies.caddy: caddy_by_the_docs,
    proxies.haproxy: haproxy_by_the_docs,
    proxies.apache: apache_by_the_docs,
}


def test_behind_proxies_with_the_lines_of_the_docs_nothing_is_wrong(
    start: Services, open_page: Open, tmp_path: Path
) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="2", SSE_TRUSTED_PROXIES="127.0.0.1")
    cert, key = certificate(tmp_path)
    with contextlib.ExitStack() as stack:
        pages: dict[str, Page] = {}
        for proxy, lines_of in BY_THE_DOCS.items():
            directory = tmp_path / proxy.__name__
            directory.mkdir()
            lines, port = lines_of(directory, service.port, cert, key)
            stack.enter_context(proxy(directory, lines, port))
            pages[proxy.__name__] = open_page(f"https://127.0.0.1:{port}")
        for name, page in pages.items():
            measure(page, name)
        for name, page in pages.items():
            states = results(page)
            assert {check: said(page, check) for check, state in states.items() if state != "ok"} == {}, name
            assert "HTTP/2" in said(page, "http")
            expect(page.get_by_test_id("verdict")).to_have_text("Found nothing wrong.")


def test_behind_proxies_as_they_are_what_is_wrong_is_found(
    start: Services, open_page: Open, tmp_path: Path
) -> None:
    """As Debian sets them up: HAProxy with 50 s, Apache with 300 s, nginx with its own 60 s, Caddy with none.
    Heartbeats come every 30 s, so each of the first three stands one of them."""
    service = doctored(start)
    back = f"127.0.0.1:{service.port}"
    ports = [free_port() for _ in range(4)]
    listen = f"bind 127.0.0.1:{ports[2]}"
    timeouts = "timeout connect 5000\n timeout client 50000\n timeout server 50000"
    setups = {
        proxies.nginx: f"listen 127.0.0.1:{ports[0]};\n location / {{ proxy_pass http://{back}; }}",
        proxies.caddy: f"http://127.0.0.1:{ports[1]} {{\n reverse_proxy {back}\n}}\n",
        proxies.haproxy: f"defaults\n mode http\n {timeouts}\nfrontend f\n {listen}\n default_backend b\n"
        f"backend b\n server s {back}\n",
        proxies.apache: f'Listen 127.0.0.1:{ports[3]}\nProxyPass "/" "http://{back}/"\n',
    }
    with contextlib.ExitStack() as stack:
        pages: dict[str, Page] = {}
        for (proxy, text), port in zip(setups.items(), ports, strict=True):
            directory = tmp_path / proxy.__name__
            directory.mkdir()
            stack.enter_context(proxy(directory, text, port))
            pages[proxy.__name__] = open_page(f"http://127.0.0.1:{port}")
        for name, page in pages.items():
            measure(page, name if name in SILENT else "")
        expected = {
            "nginx": {"idle": "warn", "host": "warn", "address": "warn"},
            "caddy": {"address": "warn"},
            "haproxy": {"idle": "warn", "address": "warn"},
            "apache": {"host": "warn", "address": "warn"},
        }
        assert {name: found(page) for name, page in pages.items()} == expected
        for name, page in pages.items():
            assert page.get_by_label("In front of the service").input_value() == name
        assert re.search("cut off after (59|60)", said(pages["nginx"], "idle"))
        assert re.search("cut off after (49|50)", said(pages["haproxy"], "idle"))
        assert "proxy_read_timeout 90s;" in cure(pages["nginx"], "idle")
        assert cure(pages["nginx"], "address").startswith("proxy_set_header X-Forwarded-For")
        assert cure(pages["caddy"], "address") == "SSE_TRUSTED_PROXIES=127.0.0.1"
        assert cure(pages["apache"], "host") == "ProxyPreserveHost On"
        assert all("six connections" in said(page, "http") for page in pages.values())


@contextlib.contextmanager
def cutting(back: int, seconds: float, late: float = 0) -> Iterator[int]:
    """A relay that ends each connection after so many seconds, whatever flows. What comes from the service is
    `late` by so many seconds, and by twice that at the most."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if late and source.getpeername()[1] == back:
                    ended.wait(late)
                sink.sendall(data)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", back)) as service:
            ways = [
                threading.Thread(target=pass_on, args=ends, daemon=True)
                for ends in ((client, service), (service, client))
            ]
            for way in ways:
                way.start()
            ended.wait(seconds)
            for end in (client, service):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for way in ways:
                way.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()


def test_a_proxy_that_holds_back_one_that_compresses_and_two_that_cut_off(
    start: Services, open_page: Open, tmp_path: Path
) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="10")
    pass_on = f"proxy_pass http://127.0.0.1:{service.port}; proxy_set_header Host $http_host;"
    servers = {
        "holding": "proxy_ignore_headers X-Accel-Buffering;",
        "compressing": "gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;",
        "impatient": "proxy_read_timeout 10s;",
    }
    with contextlib.ExitStack() as stack:
        pages: dict[str, Page] = {}
        for name, lines in servers.items():
            directory, port = tmp_path / name, free_port()
            directory.mkdir()
            server = f"listen 127.0.0.1:{port};\n location / {{ {pass_on} {lines} }}"
            stack.enter_context(proxies.nginx(directory, server, port))
            pages[name] = open_page(f"http://127.0.0.1:{port}")
        pages["cutting"] = open_page(f"http://127.0.0.1:{stack.enter_context(cutting(service.port, 10))}")
        for page in pages.values():
            measure(page)
        expect(pages["holding"].get_by_test_id("check-buffering")).to_have_attribute("data-state", "bad")
        expect(pages["holding"].get_by_test_id("verdict")).to_be_empty()  # it is told before the end
        held, compressed, idle, cut = map(found, pages.values())
        assert held["buffering"] == "bad"
        assert "proxy_buffering off;" in cure(pages["holding"], "buffering")
        assert compressed["compression"] == "warn"
        assert "buffering" not in compressed
        assert "gzip" in said(pages["compressing"], "compression")
        assert cure(pages["compressing"], "compression") == "gzip off;"
        assert idle["idle"] == "bad"
        assert "lifetime" not in idle
        assert re.search(r"cut off after (9|10)(\.\d)? s", said(pages["impatient"], "idle"))
        assert cut["lifetime"] == "bad"
        assert "though data flowed" in said(pages["cutting"], "lifetime")
        assert all("idle" not in one for one in (held, compressed))


def test_a_proxy_that_holds_back_each_frame_is_not_taken_for_a_wrong_clock(
    start: Services, open_page: Open
) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="5")
    with cutting(service.port, 60, late=3) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        measure(page)
        states = results(page)
        assert (states["buffering"], states["clock"]) == ("bad", "unknown")


def test_without_a_proxy_nothing_is_wrong(start: Services, open_page: Open) -> None:
    page = open_page(doctored(start, SSE_HEARTBEAT_SECONDS="2").url)
    measure(page)
    states = results(page)
    assert states.pop("http") == "note"
    assert set(states.values()) == {"ok"}


def test_pages_of_another_origin(start: Services, open_page: Open) -> None:
    origin = "https://app.example.com"
    open_to_all = doctored(start, SSE_HEARTBEAT_SECONDS="2")
    listed = doctored(start, SSE_HEARTBEAT_SECONDS="2", SSE_CORS_ORIGINS=origin)
    other = doctored(start, SSE_HEARTBEAT_SECONDS="2", SSE_CORS_ORIGINS="https://other.example.com")
    pages = [open_page(service.url) for service in (open_to_all, listed, other)]
    for page in pages:
        page.get_by_label("Origin of your page").fill("app.example.com")
        measure(page)
        expect(page.get_by_label("Origin of your page")).to_be_focused()
        expect(page.get_by_role("alert")).to_have_text("Enter an origin such as https://app.example.com")
        page.get_by_label("Origin of your page").fill(origin)
        measure(page)
    assert [results(page)["cors"] for page in pages] == ["note", "ok", "bad"]
    assert cure(pages[2], "cors") == f"SSE_CORS_ORIGINS={origin}"


def test_a_clock_that_is_wrong_is_told(start: Services, open_page: Open) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="2")
    page = open_page(service.url)
    page.evaluate("{ const now = Date.now; Date.now = () => now() - 90_000; }")
    measure(page)
    assert found(page) == {"clock": "warn"}
    assert re.search(r"(89|90)(\.\d)? s behind", said(page, "clock"))


def test_what_answers_in_the_service_s_place_is_told(
    start: Services, open_page: Open, tmp_path: Path
) -> None:
    """`location /` for something else, and only the page is passed on."""
    service, port = doctored(start), free_port()
    server = f"listen 127.0.0.1:{port}; location / {{ return 200 hello; }}"
    server += f" location = /doctor {{ proxy_pass http://127.0.0.1:{service.port}; }}"
    with proxies.nginx(tmp_path, server, port):
        page = open_page(f"http://127.0.0.1:{port}")
        measure(page)
        assert found(page)["reach"] == "bad"
        assert "everything under /sse" in said(page, "reach")


def test_a_refusal_is_told(start: Services, open_page: Open) -> None:
    service = doctored(start, SSE_MAX_CONNECTIONS_PER_ADDRESS="1")
    with contextlib.closing(socket.create_connection(("127.0.0.1", service.port))) as client:
        client.sendall(b"GET /sse HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096)
        page = open_page(service.url)
        measure(page)
        assert found(page)["reach"] == "bad"
        assert "SSE_MAX_CONNECTIONS_PER_ADDRESS" in said(page, "reach")


def test_by_keyboard_in_chinese_with_the_report(start: Services, open_page: Open) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="2")
    page = open_page(service.url, locale="zh-CN")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    keyboard = page.keyboard
    keyboard.press("Tab")
    expect(page.locator("#language")).to_be_focused()
    keyboard.press("Tab")
    expect(page.locator("#proxy")).to_be_focused()
    keyboard.type("nginx")
    keyboard.press("Tab")
    keyboard.press("Enter")  # in the field for the origin
    idle = page.get_by_test_id("check-idle")
    expect(idle).to_have_attribute("data-state", "ok", timeout=MEASURING_MILLISECONDS)
    expect(page.get_by_test_id("verdict")).to_have_text(re.compile("发现 1 处"))  # the address
    for _ in range(4):
        keyboard.press("Tab")
        if page.locator("#report").evaluate("el => el === document.activeElement"):
            break
    expect(page.locator("#report")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("#report")).to_have_text("已复制")
    report = page.evaluate("navigator.clipboard.readText()")
    assert "[需要注意] 客户端地址" in report
    assert "proxy_set_header X-Forwarded-For" in report
    page.locator("#language").click()
    expect(page.get_by_test_id("verdict")).to_have_text("Found 1 thing to look at.")


@pytest.mark.parametrize("name", ["EN", "ZH"])
def test_both_languages_have_all_words(start: Services, open_page: Open, name: str) -> None:
    page = open_page(doctored(start).url)
    other = "EN" if name == "ZH" else "ZH"
    assert page.evaluate(f"Object.keys({name}).filter(key => !Object.hasOwn({other}, key))") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_no_wider_than_a_telephone(start: Services, open_page: Open, scheme: str) -> None:
    service = doctored(start, SSE_HEARTBEAT_SECONDS="2")
    page = open_page(service.url, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    measure(page, "alb")  # with the longest lines
    results(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_what_it_prints_stands_in_the_docs() -> None:
    text = PAGE.split("const CURES = ")[1].split("\n};")[0]
    for name in ("nginx", "caddy", "haproxy", "apache", "alb"):
        lines = re.findall(r"'((?:[^'\\]|\\.)*)'", text.split(f"  {name}: {{")[1].split("\n  },")[0])
        assert lines
        known = proxies.OPERATING if name in ("nginx", "alb") else proxies.block(name)
        for line in lines:
            if name != "alb" or "idle_timeout" in line:
                assert line.startswith("#") or line in known, line
