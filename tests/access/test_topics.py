"""Names and patterns of topics: what is one, and what a set of them allows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.inside import TEXT
from trio_sse.access.topics import NOTHING, Grants, configured, entry_problem
from trio_sse.delivery.messages import name_problem
from trio_sse.settings import SettingsError


def allows(pattern: str, topic: str) -> bool:
    """The rule, as slow as it is plain."""
    given, segments = pattern.split("/"), topic.split("/")
    if given[-1] == "**":
        filled = len(segments) >= len(given) and all(segments[len(given) - 1 :])
        given, segments = given[:-1], segments[: len(given) - 1]
        if not filled:
            return False
    fits = (one == other or (one == "*" and other != "") for one, other in zip(given, segments, strict=False))
    return len(given) == len(segments) and all(fits)


@pytest.mark.parametrize(
    ("entry", "allowed", "others"),
    [
        ("news", ["news"], ["", "new", "newss", "News", "news/", "/news", "news/a", "nеws"]),
        ("orders/17", ["orders/17"], ["orders", "orders/1", "orders/17/", "orders//17", "orders/*"]),
        ("orders/*", ["orders/17", "orders/ ", "orders/*", "orders/**"], ["orders", "orders/", "orders/a/b"]),
        (
            "orders/*",
            ["orders/王"],
            ["orders//", "orders//a", "orders/a/", "/orders/a", "Orders/a", "xorders/a"],
        ),
        (
            "orders/**",
            ["orders/a", "orders/a/b/c"],
            ["orders", "orders/", "ordersa", "orders/a/", "orders//a"],
        ),
        ("orders/**", ["orders/**/a"], ["orders/a//b", "a/orders/b", "order/a", "/orders/a", ""]),
        ("*", ["a", "*", "\u0301"], ["", "/", "a/", "/a", "a/b"]),
        ("**", ["a", "a/b", "a/b/c"], ["", "/", "/a", "a/", "a//b"]),
        ("*/a/*", ["x/a/y", "a/a/a"], ["x/a", "x/a/", "/a/y", "x/b/y", "x/a/y/z"]),
        ("*/**", ["a/b", "a/b/c"], ["a", "a/", "/b", "/"]),
        ("a/*/**", ["a/b/c", "a/b/c/d"], ["a/b", "a/b/", "a//c"]),
        ("a//*", ["a//b"], ["a/b", "a//", "a/b/c", "a///b"]),
        ("/**", ["/a", "/a/b"], ["a", "/", "//a"]),
        ("a.c/[x]+", ["a.c/[x]+"], ["abc/x", "a.c/x"]),
        ("é", ["é"], ["e\u0301"]),
        ("\u202e/*", ["\u202e/a"], ["/a"]),
    ],
)
def test_what_a_name_or_a_pattern_allows(entry: str, allowed: list[str], others: list[str]) -> None:
    assert entry_problem(entry) is None
    grants = Grants([entry])
    assert [topic for topic in allowed if not grants.allows(topic)] == []
    assert [topic for topic in others if grants.allows(topic)] == []
    assert bool(grants)
    assert grants.names == (() if "*" in entry else (entry,))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "a*",
        "*a",
        "a*b",
        "orders/1*",
        "orders/*1",
        "***",
        "a/***",
        "**/a",
        "a/**/b",
        "**/*",
        "**/**",
        "a/**/",
        "*/*/**/*",
        "a*/**",
        "a**",
        "a/* ",
        " **",
        "a\nb",
        "a/\0/*",
        "\ud800",
        "x" * 129,
        "*/" * 64 + "*",
    ],
)
def test_what_is_neither_a_name_nor_a_pattern(entry: str) -> None:
    assert entry_problem(entry)


SEGMENTS = st.sampled_from(["a", "b", "", "*", "a"])
PATTERNS = st.builds(
    lambda segments, end: "/".join([*segments, *end]),
    st.lists(SEGMENTS, max_size=4),
    st.sampled_from([[], ["**"], ["*"], ["a"]]),
).filter(lambda pattern: entry_problem(pattern) is None)
TOPICS = st.lists(st.sampled_from(["a", "b", "", "c", "*", "**"]), max_size=6).map("/".join)


@given(st.lists(PATTERNS, max_size=8), TOPICS)
@example(["a/*/b", "*/a/c", "a/a/**"], "a/a/b")
@example(["*/a", "a/b"], "a/a")
def test_a_set_allows_what_one_of_its_entries_does(entries: list[str], topic: str) -> None:
    grants = Grants(entries)
    assert grants.allows(topic) is any(allows(entry, topic) for entry in entries)
    assert grants.names == tuple(dict.fromkeys(entry for entry in entries if "*" not in entry))
    assert bool(grants) is bool(entries)


def test_the_rule_holds_for_all_short_patterns_and_topics() -> None:
    alphabet = ("a", "b", "", "*")
    topics = [
        "/".join(one) for size in (1, 2, 3) for one in itertools.product(("a", "b", "", "*"), repeat=size)
    ]
    for size in (1, 2, 3):
        for segments in itertools.product(alphabet, repeat=size):
            for pattern in ("/".join(segments), "/".join([*segments, "**"])):
                if entry_problem(pattern) is None:
                    grants = Grants([pattern])
                    for topic in topics:
                        assert grants.allows(topic) is allows(pattern, topic), (pattern, topic)


@given(TEXT | st.text(st.sampled_from("a/*\0é"), max_size=12))
def test_every_text_is_a_name_or_a_pattern_or_refused(text: str) -> None:
    problem = entry_problem(text)
    if "*" not in text:
        assert (problem is None) is (name_problem("topic", text) is None)
    if problem is None:
        *before, last = text.split("/")
        assert all(segment == "*" or "*" not in segment for segment in before)
        assert last in ("*", "**") or "*" not in last
        assert Grants([text]).allows(text) is ("*" not in text or allows(text, text))


class Counted(str):
    """A segment that counts how often it is looked for."""

    looked = 0

    def __hash__(self) -> int:
        Counted.looked += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


class Topic(str):
    """A name whose segments are counted."""

    def split(self, *arguments: object) -> list[str]:
        return [Counted(segment) for segment in super().split("/")]


DEEP = 62
SLOW = {
    "one star after another": ["*/" * DEEP + "*"],
    "stars and a rest": ["*/" * DEEP + "**"],
    "a star before each name": ["*/a/" * (DEEP // 2) + "x"],
    "all that differ in stars": ["/".join(one) for one in itertools.product("*a", repeat=6)],
    "all of any length": ["/".join(["*"] * size + ["x"]) for size in range(DEEP)],
    "rests of any length": ["/".join(["*"] * size + ["x", "**"]) for size in range(DEEP)],
}


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("segment", ["a", "*", "**", ""])
def test_no_patterns_make_a_look_take_more_steps_than_they_have_segments(how: str, segment: str) -> None:
    patterns = SLOW[how]
    assert not any(map(entry_problem, patterns))
    grants = Grants(patterns)
    segments = sum(pattern.count("/") + 1 for pattern in patterns)
    for topic in ("/".join([segment] * 64), "/".join([segment] * 63 + ["x"])):
        Counted.looked = 0
        grants.allows(Topic(topic))
        assert Counted.looked <= 2 * segments + 64


@pytest.mark.parametrize("pattern", ["**", "*/**", "a/**", "*/b", "*/*/*/b/**"])
def test_a_look_takes_time_in_proportion_to_the_name(pattern: str) -> None:
    """A name of two million segments: what takes the square of it would never end."""
    grants = Grants([pattern])
    for topic in ("a/" * 2_000_000, "a/" * 2_000_000 + "a", "/" * 2_000_000 + "a"):
        assert grants.allows(topic) is allows(pattern, topic)


def test_names_are_in_order_and_each_once() -> None:
    assert Grants(["b", "a/*", "a", "b", "c"]).names == ("b", "a", "c")
    assert not NOTHING
    assert not NOTHING.allows("")
    assert NOTHING.names == ()


def test_a_setting_with_what_is_none_is_a_line_for_each() -> None:
    with pytest.raises(SettingsError) as caught:
        configured("SSE_PUBLIC_TOPICS", ["news", "or*", "orders/*", "a/**/b"])
    first, second = caught.value.lines
    assert first.startswith("SSE_PUBLIC_TOPICS='or*' is not accepted")
    assert second.startswith("SSE_PUBLIC_TOPICS='a/**/b' is not accepted")
    assert configured("SSE_PUBLIC_TOPICS", ["news", "orders/*"]).allows("orders/1")
    assert not configured("SSE_PUBLIC_TOPICS", [])
