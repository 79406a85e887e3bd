"""The test page in a real Chromium, opened from a file and from the service."""

from __future__ import annotations

import json
import re
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from playwright.sync_api import Browser, Locator, Page, Request, expect

import trio_sse
from tests.support.process import Service, Services, wait_until
from tests.support.tokens import SECRET, token
from tests.support.valkeys import breakable

pytestmark = pytest.mark.browser

TOKEN = "a-publish-token-of-the-tests"
PATIENCE_MILLISECONDS = 15_000
"""For what the page shall show, on a busy machine. Playwright's own is a third of it."""

expect.set_options(timeout=PATIENCE_MILLISECONDS)

FILE = Path(trio_sse.__file__).with_name("test-sse.html").resolve().as_uri()


class TestPage:
    """The page, as its user sees it."""

    __test__ = False

    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.service = service
        self.console_errors: list[str] = []
        self.requests: list[str] = []
        self.page_errors: list[str] = []
        page.on(
            "console", lambda said: self.console_errors.append(said.text) if said.type == "error" else None
        )
        page.on("pageerror", lambda error: self.page_errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def connect(
        self, user: str, *, topics: str | None = None, reader: str | None = None, names: str | None = None
    ) -> Locator:
        """Fill the form and press the button: the stream's part of the page."""
        if self.page.url.startswith("file:"):  # else it is the service that the page came from
            self.page.locator("#server").fill(self.service.url)
        self.page.locator("#user").fill(user)
        if topics is not None:
            self.page.locator("#topics").fill(topics)
        if reader is not None:
            self.page.locator("#reader").select_option(reader)
        if names is not None:
            self.page.locator("#events").fill(names)
        self.page.locator("#connect-button").click()
        return self.page.get_by_test_id("stream").last

    def check(self, *, errors_expected: bool = False) -> None:
        assert not self.page_errors
        assert errors_expected or not self.console_errors
        for url in self.requests:
            parts = urlsplit(url)
            assert parts.scheme in ("file", "data") or parts.netloc == f"127.0.0.1:{self.service.port}", url


Open = Callable[..., TestPage]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    contexts = []

    def open_page(service: Service, *, from_file: bool = False, locale: str = "en-US") -> TestPage:
        context = browser.new_context(locale=locale)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        contexts.append(context)
        page = TestPage(context.new_page(), service)
        page.page.goto(FILE if from_file else service.url)
        return page

    yield open_page
    for context in contexts:
        context.close()


def is_open(stream: Locator) -> None:
    expect(stream).to_have_attribute("data-state", "open")


by_each_reader = pytest.mark.parametrize("reader", ["fetch", "eventsource"])


@by_each_reader
@pytest.mark.parametrize("from_file", [False, True], ids=["from-the-service", "from-a-file"])
def test_connect_receive_disconnect(start: Services, open_page: Open, from_file: bool, reader: str) -> None:
    service = start()
    page = open_page(service, from_file=from_file)
    stream = page.connect("1", reader=reader)
    is_open(stream)
    expect(stream.get_by_test_id("reader")).to_contain_text(re.compile(f"^{reader}:", re.IGNORECASE))
    expect(stream.get_by_test_id("follows")).to_have_text("User 1")
    expect(stream.get_by_test_id("connection-id")).to_have_text(re.compile("[0-9a-f]{16}"))
    service.publish(1, message="hello <b>there</b>", n=2**60)
    row = stream.get_by_test_id("message")
    expect(row).to_have_count(1)
    expect(row.get_by_test_id("text")).to_have_text("hello <b>there</b>")
    expect(row.get_by_test_id("delay")).to_contain_text("after")
    expect(row.get_by_test_id("json")).to_contain_text(str(2**60))
    expect(stream.get_by_test_id("count")).to_have_text("1")
    stream.get_by_test_id("disconnect").click()
    expect(stream).to_have_attribute("data-state", "closed")
    wait_until(lambda: service.connections == 0, "the browser has left")
    page.check()


@pytest.mark.parametrize("page_path", ["/notify/", "/notify", "/"])
def test_the_page_keeps_the_path_of_the_service(start: Services, open_page: Open, page_path: str) -> None:
    """A proxy that takes the path off asks for /; the page cannot know it from its own address then."""
    service = start(SSE_ROOT_PATH="/notify")
    page = open_page(service)
    page.page.goto(service.url + page_path)
    for _ in range(2):
        expect(page.page.locator("#server")).to_have_value(f"{service.url}/notify")
        page.page.locator("#user").fill("1")
        page.page.locator("#connect-button").click()
        is_open(page.page.get_by_test_id("stream").last)
        page.page.evaluate("localStorage.setItem('trio_sse.server', location.origin + '/another')")
        page.page.reload()
    page.check()


def test_users_side_by_side(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    for user in ("1", "zwei"):
        is_open(page.connect(user))
    first, second = page.page.get_by_test_id("stream").all()
    service.publish("zwei", message="for the second")
    expect(second.get_by_test_id("text")).to_have_text("for the second")
    service.publish("*", message="for both")
    expect(first.get_by_test_id("text")).to_have_text("for both")
    expect(first.get_by_test_id("count")).to_have_text("1")
    expect(second.get_by_test_id("count")).to_have_text("2")
    page.check()


def test_a_gap_is_told_in_plain_words(start: Services, open_page: Open) -> None:
    with breakable() as valkey, valkey.client() as admin:
        service = start(redis_port=valkey.port)
        page = open_page(service)
        stream = page.connect("1")
        is_open(stream)
        admin.client_kill_filter(_type="pubsub")
        expect(stream.get_by_test_id("gap")).to_contain_text("lost Redis")
        expect(stream.get_by_test_id("missed")).to_have_text("unknown")
        page.check(errors_expected=True)  # /readyz may have said 503 meanwhile


@by_each_reader
def test_a_restart_of_the_service_is_counted(start: Services, open_page: Open, reader: str) -> None:
    service = start()
    page = open_page(service)
    stream = page.connect("1", reader=reader)
    is_open(stream)
    assert service.stop().code == 0
    expect(stream).to_have_attribute("data-state", "reconnecting")
    again = start(port=service.port)
    is_open(stream)
    expect(stream.get_by_test_id("reconnects")).to_have_text("1")
    again.publish(1, message="after the restart")
    expect(stream.get_by_test_id("text")).to_have_text("after the restart")
    page.check(errors_expected=True)


@by_each_reader
@pytest.mark.parametrize("from_file", [False, True], ids=["from-the-service", "from-a-file"])
def test_reconnecting_by_hand_brings_what_was_missed(
    start: Services, open_page: Open, reader: str, from_file: bool
) -> None:
    service = start()
    page = open_page(service, from_file=from_file)
    stream = page.connect("1", reader=reader)
    is_open(stream)
    stream.get_by_test_id("disconnect").click()
    expect(stream).to_have_attribute("data-state", "closed")
    service.publish(1, message="missed meanwhile")
    stream.get_by_test_id("reconnect").click()
    expect(stream.get_by_test_id("text")).to_have_text("missed meanwhile")
    expect(stream.get_by_test_id("gap")).to_have_count(0)
    page.check()


@by_each_reader
def test_a_connection_that_falls_silent_is_made_anew(start: Services, open_page: Open, reader: str) -> None:
    """As when a network drops the connection and tells neither end."""
    service = start(SSE_HEARTBEAT_SECONDS="1")
    page = open_page(service)
    stream = page.connect("1", reader=reader)
    is_open(stream)
    service.process.send_signal(signal.SIGSTOP)
    try:
        expect(stream.get_by_test_id("service")).to_contain_text("No heartbeat came")
        expect(stream).not_to_have_attribute("data-state", "open")
    finally:
        service.process.send_signal(signal.SIGCONT)
    is_open(stream)
    expect(stream.get_by_test_id("reconnects")).to_have_text("1")
    service.publish(1, message="to the new one")
    expect(stream.get_by_test_id("text")).to_have_text("to the new one")
    expect(stream.get_by_test_id("gap")).to_have_count(0)
    page.check()


def test_every_event_is_shown_whatever_its_name(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    stream = page.connect("1")
    is_open(stream)
    service.publish(1, message="without")
    service.publish(1, event="shipped", message="with")
    service.publish(1, event="close", message="one that scripts know")
    rows = stream.get_by_test_id("message")
    expect(rows).to_have_count(3)
    expect(rows.get_by_test_id("text")).to_have_text(["one that scripts know", "with", "without"])
    expect(rows.get_by_test_id("event-name")).to_have_text(["close", "shipped"])
    expect(stream.get_by_test_id("count")).to_have_text("3")
    page.check()


def test_an_event_source_shows_the_names_it_is_given_and_says_so(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    expect(page.page.locator("#events")).to_be_hidden()
    stream = page.connect("1", reader="eventsource", names="shipped, price")
    is_open(stream)
    expect(stream.get_by_test_id("reader")).to_contain_text("and shipped, price. No others are shown")
    expect(page.page.locator("#token")).to_be_hidden()
    service.publish(1, event="shipped", message="listed")
    service.publish(1, event="other", message="not listed")
    service.publish(1, message="without")
    expect(stream.get_by_test_id("text")).to_have_text(["without", "listed"])
    page.check()


@by_each_reader
def test_topics_are_in_the_address_of_the_stream(start: Services, open_page: Open, reader: str) -> None:
    service = start()
    page = open_page(service)
    stream = page.connect("1", topics="news, orders/17，a&b,, news", reader=reader)
    is_open(stream)
    address = f"{service.url}/sse?user_id=1&topic=news&topic=orders%2F17&topic=a%26b"
    expect(stream.get_by_test_id("url")).to_have_text(address)
    assert address in page.requests
    expect(stream.get_by_test_id("title")).to_have_text("User 1 · topics news, orders/17, a&b")
    page.page.reload()
    expect(page.page.locator("#topics")).to_have_value("news, orders/17，a&b,, news")
    expect(page.page.locator("#reader")).to_have_value(reader)
    page.check()


def test_a_link_may_name_topics_and_a_stream_need_not_have_a_user(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    page.page.goto(f"{service.url}/?topic=news&topic=orders/17")
    expect(page.page.locator("#topics")).to_have_value("news, orders/17")
    stream = page.connect("")
    expect(stream.get_by_test_id("url")).to_have_text(f"{service.url}/sse?topic=news&topic=orders%2F17")
    expect(stream.get_by_test_id("title")).to_have_text("Topics news, orders/17")
    page.page.locator("#topics").fill("")
    page.page.locator("#connect-button").click()
    expect(page.page.locator("#user-error")).to_contain_text("a user ID or a topic")
    expect(page.page.get_by_test_id("stream")).to_have_count(1)
    page.check()


def test_a_message_is_sent_to_the_user_or_to_a_topic(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    sending = f"redis-cli PUBLISH {service.channel}"
    alone = page.connect("1", topics="")
    is_open(alone)
    expect(alone.get_by_test_id("to")).to_be_hidden()
    stream = page.connect("1", topics="news, it's")
    is_open(stream)
    command = stream.get_by_test_id("command")
    expect(command).to_have_text(f"""{sending} '{{"user_id":1,"message":"hello"}}'""")
    expect(stream.get_by_label("To", exact=True)).to_be_visible()
    target = stream.get_by_test_id("target")
    target.select_option("topic news")
    expect(command).to_have_text(f"""{sending} '{{"topic":"news","message":"hello"}}'""")
    target.focus()
    page.page.keyboard.press("ArrowDown")
    quoted = r"""'{"topic":"it'\''s","message":"hello"}'"""
    expect(command).to_have_text(f"{sending} {quoted}")
    page.page.locator("#language").click()
    expect(target.locator("option")).to_have_text(["用户 1", "主题 news", "主题 it's"])
    expect(command).to_have_text(f"{sending} {quoted}")
    page.check()


@pytest.mark.parametrize(("locale", "hint"), [("en-US", "That of this service"), ("zh-CN", "此服务的设置")])
@pytest.mark.parametrize(
    ("more", "verb"),
    [
        ({"SSE_REDIS_ROUTING": "by-key"}, "PUBLISH"),
        ({"REDIS_CLUSTER": "127.0.0.1:1", "REDIS_HOST": None, "REDIS_PORT": None}, "-c SPUBLISH"),
    ],
    ids=["one-redis", "cluster"],
)
def test_the_commands_name_the_channels_by_key_of_the_service(
    start: Services, open_page: Open, more: dict[str, Any], verb: str, locale: str, hint: str
) -> None:
    service = start(ready="/healthz", SSE_REDIS_CHANNEL="it's", **more)
    page = open_page(service, locale=locale)
    expect(page.page.locator("#channel")).to_have_value("it's:*")
    expect(page.page.locator("#channel-hint")).to_contain_text(hint)
    stream = page.connect("42", topics="orders/17")
    command, python = stream.get_by_test_id("command"), stream.get_by_test_id("python-command")
    text = """'{"message":"hello"}'"""
    expect(command).to_have_text(rf"redis-cli {verb} 'it'\''s:user:42' {text}")
    stream.get_by_test_id("target").select_option(index=1)
    expect(command).to_have_text(rf"redis-cli {verb} 'it'\''s:topic:orders/17' {text}")
    way = "RedisCluster(" if "SPUBLISH" in verb else "Redis().publish("
    expect(python).to_contain_text(way)
    page.check(errors_expected=True)  # it is not ready without the cluster


@pytest.mark.parametrize("cluster", [False, True])
def test_the_commands_name_the_partitions_of_the_service(
    start: Services, open_page: Open, cluster: bool
) -> None:
    more: dict[str, Any] = {"REDIS_CLUSTER": "127.0.0.1:1"} if cluster else {}
    service = start(ready="/healthz", SSE_REDIS_STREAM="it's", SSE_STREAM_PARTITIONS="8", **more)
    page = open_page(service)
    expect(page.page.locator("#channel")).to_have_value("it's:{*}")
    stream = page.connect("42", topics="orders/é")
    command, python = stream.get_by_test_id("command"), stream.get_by_test_id("python-command")
    how = "-c" if cluster else "-n 1"
    for number, name, target in ((0, "user:42", '"user_id":42'), (1, "topic:orders/é", '"topic":"orders/é"')):
        stream.get_by_test_id("target").select_option(index=number)
        key = rf"'it'\''s:{{{zlib.crc32(name.encode()) % 8}}}'"
        payload = f"""'{{{target},"message":"hello"}}'"""
        expect(command).to_have_text(f"redis-cli {how} XADD {key} '*' payload {payload}")
        expect(python).to_contain_text('RedisCluster("127.0.0.1").xadd(' if cluster else "Redis(db=1).xadd(")
        expect(python).to_contain_text(f"{key} {payload}")
    page.check(errors_expected=cluster)


def test_a_page_from_a_file_takes_the_channel_from_its_user(
    start: Services, open_page: Open, valkey: int
) -> None:
    service = start(SSE_REDIS_ROUTING="by-key")
    page = open_page(service, from_file=True)
    page.page.locator("#channel").fill(f"{service.channel}:*")
    stream = page.connect("42")
    is_open(stream)
    expected = f"""redis-cli PUBLISH {service.channel}:user:42 '{{"message":"hello"}}'"""
    expect(stream.get_by_test_id("command")).to_have_text(expected)
    with redis.Redis(port=valkey) as back_end:
        back_end.publish(f"{service.channel}:user:42", '{"message":"hello"}')
    expect(stream.get_by_test_id("text")).to_have_text("hello")
    page.page.reload()
    expect(page.page.locator("#channel")).to_have_value(f"{service.channel}:*")
    page.check()


def numbers(page: TestPage) -> list[int]:
    """The numbers of the messages that the page has got, in order."""
    script = "[...streams][0].entries.filter(e => e.kind === 'message').map(e => JSON.parse(e.data).n)"
    page.page.evaluate("[...streams][0].flush()")
    found: list[int] = page.page.evaluate(script)
    return found[::-1]


def test_over_a_restart_nothing_is_missing_and_nothing_comes_twice(start: Services, open_page: Open) -> None:
    """By fetch, while numbered messages are written to the log all the time."""
    service = start(SSE_REDIS_STREAM="test-browser-log")
    page = open_page(service)
    headers: list[str | None] = []

    def note(request: Request) -> None:
        if "/sse" in request.url:
            headers.append(request.headers.get("last-event-id"))

    page.page.on("request", note)
    stream = page.connect("1", reader="fetch")
    is_open(stream)
    sent = 0
    with redis.Redis(port=int(service.environment["REDIS_PORT"]), db=1) as client:

        def send(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                message = {"user_id": 1, "event": f"kind-{sent % 3}", "n": sent}
                client.xadd("test-browser-log", {"payload": json.dumps(message)})
                sent += 1

        send(100)
        service.process.send_signal(signal.SIGKILL)  # in the middle of what it writes
        service.process.wait()
        send(50)
        expect(stream).to_have_attribute("data-state", "reconnecting")
        again = start(port=service.port, SSE_REDIS_STREAM="test-browser-log")
        send(50)
        is_open(stream)
        send(50)
        wait_until(lambda: len(numbers(page)) >= sent, "all have come", 30)
        again.stop()
        client.delete("test-browser-log")
    assert numbers(page) == list(range(sent))
    assert headers[0] is None
    assert headers[-1]
    expect(stream.get_by_test_id("gap")).to_have_count(0)
    page.check(errors_expected=True)


PARSED = """
data: one

id: ü1
event: x
data: two
data:  lines
:comment
unknown: field
retry: 700

id: a\0b
event: no data

data
event:

id
retry: x
data:x: y

data: \U0001f600 cut
""".encode()


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_the_reader_by_fetch_takes_a_stream_apart_as_an_event_source_does(
    start: Services, open_page: Open, line_end: bytes
) -> None:
    """However the bytes are cut."""
    page = open_page(start())
    given = PARSED.replace(b"\\0", b"\0").replace(b"\n", line_end)
    script = """([bytes, size]) => {
        const found = [], decoder = new TextDecoder();
        const parser = new EventParser('', e => found.push([e.type, e.data, e.lastEventId]));
        for (let at = 0; at < bytes.length; at += size)
            parser.push(decoder.decode(new Uint8Array(bytes.slice(at, at + size)), { stream: true }));
        return [found, parser.retry, parser.lastEventId];
    }"""
    expected = [
        [
            ["message", "one", ""],
            ["x", "two\n lines", "ü1"],
            ["message", "", "ü1"],
            ["message", "x: y", ""],
        ],
        700,
        "",
    ]
    for size in (1, 2, 3, 7, 1000):
        assert page.page.evaluate(script, [list(given), size]) == expected, size
    page.check()


def test_what_a_link_says_cannot_send_the_page_or_its_token_elsewhere(
    start: Services, open_page: Open
) -> None:
    service, other = start(SSE_PUBLISH_TOKENS=TOKEN), start(SSE_PUBLISH_TOKENS=TOKEN)
    page = open_page(service)
    for part in ("?", "#"):
        page.page.goto("about:blank")
        page.page.goto(f"{service.url}/{part}server={other.url}&user_id=7")
        expect(page.page.locator("#server")).to_have_value(service.url)
        page.page.evaluate(f"localStorage.setItem('trio_sse.server', '{other.url}')")
        page.page.reload()
        expect(page.page.locator("#server")).to_have_value(service.url)
        expect(page.page.locator("#server")).not_to_be_editable()
    # Nor can a script that got into the page: the policy stops it.
    refused = page.page.evaluate(f"fetch('{other.url}/healthz').then(() => false, () => true)")
    assert refused
    stream = page.connect("7")
    is_open(stream)
    form = publish_form(stream)
    form.get_by_label("Token").fill(TOKEN)
    form.get_by_test_id("send").click()
    expect(form.get_by_test_id("sent")).to_contain_text("Accepted")
    page.check(errors_expected=True)  # of the policy


@by_each_reader
def test_a_refusal_shows_its_reason(start: Services, open_page: Open, reader: str) -> None:
    page = open_page(start())
    stream = page.connect("x" * 129, reader=reader)
    expect(stream).to_have_attribute("data-state", "closed")
    expect(stream.get_by_test_id("notice")).to_contain_text("HTTP 400")
    expect(stream.get_by_test_id("notice")).to_contain_text("more than 128")
    page.check(errors_expected=True)


def test_redis_away_is_shown(start: Services, open_page: Open) -> None:
    with breakable(started=False) as valkey:
        page = open_page(start(redis_port=valkey.port, ready="/healthz"))
        stream = page.connect("1")
        is_open(stream)
        expect(stream.get_by_test_id("notice")).to_contain_text("redis_unreachable")
        page.check(errors_expected=True)


def test_the_command_can_be_copied(start: Services, open_page: Open) -> None:
    service = start()
    page = open_page(service)
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stream = page.connect("7")
    is_open(stream)
    command = f"""redis-cli PUBLISH {service.channel} '{{"user_id":7,"message":"hello"}}'"""
    expect(stream.get_by_test_id("command")).to_have_text(command)
    stream.get_by_test_id("copy").click()
    expect(stream.get_by_test_id("copy")).to_have_text("Copied")
    assert page.page.evaluate("navigator.clipboard.readText()") == command
    page.check()


def test_chinese_by_the_language_of_the_browser(start: Services, open_page: Open) -> None:
    page = open_page(start(), locale="zh-CN")
    expect(page.page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.page.locator("h1")).to_have_text("trio_sse 测试页")
    expect(page.page.locator("#connect-button")).to_have_text("连接")
    stream = page.connect("1")
    is_open(stream)
    expect(stream.get_by_test_id("state")).to_have_text("已连接")
    page.page.locator("#language").click()
    expect(stream.get_by_test_id("state")).to_have_text("Open")
    page.check()


def publish_form(stream: Locator) -> Locator:
    """The form for POST /publish, unfolded."""
    http = stream.get_by_test_id("http")
    expect(http).to_be_visible()
    http.locator("summary").click()
    return http


@pytest.mark.parametrize("from_file", [False, True], ids=["from-the-service", "from-a-file"])
def test_a_message_is_published_over_http_and_its_way_is_told(
    start: Services, open_page: Open, from_file: bool
) -> None:
    page = open_page(start(SSE_PUBLISH_TOKENS=TOKEN), from_file=from_file)
    stream = page.connect("1")
    is_open(stream)
    form = publish_form(stream)
    form.get_by_label("Token").fill(TOKEN)
    form.get_by_label("Message").fill('over "HTTP" <b>')
    form.get_by_test_id("send").click()
    expect(form.get_by_test_id("sent")).to_contain_text("1 stream took it, 0 will get it later, 0 lost it")
    expect(stream.get_by_test_id("text")).to_have_text('over "HTTP" <b>')
    page.check()


def test_a_wrong_token_says_so_and_a_right_one_helps(start: Services, open_page: Open) -> None:
    page = open_page(start(SSE_PUBLISH_TOKENS=TOKEN))
    stream = page.connect('ann\'s "own"')
    is_open(stream)
    form = publish_form(stream)
    for token_given in ("two", ""):
        form.get_by_label("Token").fill(token_given)
        form.get_by_test_id("send").click()
        expect(form.get_by_test_id("sent")).to_contain_text("Not accepted (Authorization: Bearer")
        expect(form.get_by_test_id("sent")).to_have_class(re.compile("error"))
    form.get_by_label("Token").fill(TOKEN)
    form.get_by_test_id("send").click()
    expect(form.get_by_test_id("sent")).to_contain_text("Accepted")
    expect(form.get_by_test_id("sent")).not_to_have_class(re.compile("error"))
    expect(stream.get_by_test_id("message")).to_have_count(1)
    page.check(errors_expected=True)  # the browser notes the 401


def test_the_form_works_by_keyboard(start: Services, open_page: Open) -> None:
    page = open_page(start(SSE_PUBLISH_TOKENS=TOKEN))
    stream = page.connect("1")
    is_open(stream)
    http = stream.get_by_test_id("http")
    expect(http).to_be_visible()
    http.locator("summary").focus()
    keyboard = page.page.keyboard
    keyboard.press("Enter")
    keyboard.press("Tab")
    keyboard.type(TOKEN)
    keyboard.press("Tab")
    keyboard.type("typed")
    keyboard.press("Enter")
    expect(stream.get_by_test_id("text")).to_have_text("typed")
    expect(http.get_by_label("Message")).to_be_focused()
    keyboard.press("Tab")
    expect(http.get_by_test_id("send")).to_be_focused()
    keyboard.press("Space")
    expect(stream.get_by_test_id("message")).to_have_count(2)
    page.check()


def test_without_the_route_there_is_no_form(start: Services, open_page: Open) -> None:
    page = open_page(start())
    with page.page.expect_response("**/readyz") as asked:
        stream = page.connect("1")
        is_open(stream)
    assert asked.value.json()["publish"] is False
    expect(stream.get_by_test_id("http")).to_be_hidden()
    page.check()


def test_while_redis_is_away_the_form_says_so(start: Services, open_page: Open) -> None:
    page = open_page(start(redis_port=1, ready="/healthz", SSE_PUBLISH_TOKENS=TOKEN))
    stream = page.connect("1")
    is_open(stream)
    form = publish_form(stream)
    form.get_by_label("Token").fill(TOKEN)
    form.get_by_test_id("send").click()
    expect(form.get_by_test_id("sent")).to_contain_text("REDIS_HOST")
    page.check(errors_expected=True)


JWT: dict[str, Any] = {
    "SSE_AUTH": "jwt",
    "SSE_JWT_SECRET": SECRET,
    "SSE_JWT_COOKIE": "tok",
    "SSE_JWT_LEEWAY_SECONDS": "0",
}


def sign_in(page: TestPage, user: str, seconds: float = 3600) -> None:
    """What a login page does: set the cookie, which no script can read."""
    value = token(sub=user, exp=int(time.time() + seconds))
    page.page.context.add_cookies(
        [{"name": "tok", "value": value, "url": page.service.url, "httpOnly": True, "sameSite": "Strict"}]
    )


def test_an_event_source_comes_with_its_cookie(start: Services, open_page: Open) -> None:
    service = start(**JWT)
    page = open_page(service)
    nobody = page.connect("ann")
    expect(nobody).to_have_attribute("data-state", "closed")
    expect(nobody.get_by_test_id("notice")).to_contain_text("HTTP 401")
    expect(nobody.get_by_test_id("notice")).to_contain_text("token is required")
    sign_in(page, "ann")
    stream = page.connect("ann")
    is_open(stream)
    service.publish("ann", message="for ann alone")
    expect(stream.get_by_test_id("text")).to_have_text("for ann alone")
    other = page.connect("bob")
    expect(other).to_have_attribute("data-state", "closed")
    expect(other.get_by_test_id("notice")).to_contain_text("HTTP 403")
    page.check(errors_expected=True)


def test_by_fetch_a_token_goes_into_a_header_and_is_not_kept(start: Services, open_page: Open) -> None:
    service = start(**JWT)
    for from_file in (False, True):
        page = open_page(service, from_file=from_file)
        field = page.page.get_by_label("Token for the stream")
        field.fill(token(sub="bob"))
        other = page.connect("ann")
        expect(other).to_have_attribute("data-state", "closed")
        expect(other.get_by_test_id("notice")).to_contain_text("HTTP 403")
        field.fill(token(sub="ann"))
        stream = page.connect("")
        is_open(stream)
        expect(stream.get_by_test_id("title")).to_have_text("By token")
        expect(stream.get_by_test_id("follows")).to_have_text("User ann")
        service.publish("ann", message="for ann alone")
        expect(stream.get_by_test_id("text")).to_have_text("for ann alone")
        expect(stream.get_by_test_id("command")).to_contain_text('{"user_id":"ann",')
        assert not [url for url in page.requests if "ey" in url.partition("?")[2]]
        page.page.reload()
        expect(field).to_have_value("")
        page.check(errors_expected=True)


def test_when_its_token_expires_it_comes_back_with_the_renewed_cookie(
    start: Services, open_page: Open
) -> None:
    service = start(**JWT)
    page = open_page(service)
    sign_in(page, "ann", seconds=4)
    stream = page.connect("ann")
    is_open(stream)
    sign_in(page, "ann")
    expect(stream.get_by_test_id("reconnects")).to_have_text("1", timeout=20_000)
    expect(stream.get_by_test_id("service")).to_contain_text("has expired")
    service.publish("ann", message="after the renewal")
    expect(stream.get_by_test_id("text")).to_have_text("after the renewal")
    expect(stream.get_by_test_id("gap")).to_have_count(0)
    page.check()


def test_one_stream_too_many_says_so_and_comes_back(start: Services, open_page: Open) -> None:
    service = start(SSE_MAX_CONNECTIONS_PER_USER="1")
    page = open_page(service)
    first = page.connect("1")
    is_open(first)
    second = page.connect("1")
    expect(second.get_by_test_id("service").first).to_contain_text("One stream too many")
    first.get_by_test_id("remove").click()
    service.publish("2", message="to nobody")
    wait_until(lambda: service.connections == 1, "the second has come back", seconds=30)
    service.publish("1", message="for the second")
    expect(page.page.get_by_test_id("text")).to_have_text("for the second")
    page.check()
