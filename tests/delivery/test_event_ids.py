"""What an id says, and what is no id."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.inside import PROCESS
from trio_sse.delivery.event_ids import MAX_LENGTH, EntryId, Position, entry_id, entry_text, parse

LARGEST = 2**64 - 1

stream_ids = st.tuples(st.integers(0, LARGEST), st.integers(0, LARGEST))
processes = st.text("0123456789abcdef", min_size=12, max_size=12)
sequences = st.integers(0, 10**18 - 1)
OURS = re.compile(r"\d+-\d+|[0-9a-f]{12}\.\d+|\d+-\d+/[0-9a-f]{12}\.\d+", re.ASCII)


def written(entry: EntryId | None, process: str | None, sequence: int) -> str:
    of_log = [] if entry is None else [entry_text(entry)]
    return "/".join(of_log + ([] if process is None else [f"{process}.{sequence}"]))


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("9f3c12ab77de.42", Position(None, PROCESS, 42)),
        ("1795462559402-0", Position((1795462559402, 0), None, 0)),
        ("1795462559402-7/9f3c12ab77de.42", Position((1795462559402, 7), PROCESS, 42)),
        ("0-0", Position((0, 0), None, 0)),
        ("123456789012.0", Position(None, "123456789012", 0)),
    ],
)
def test_an_id_says_how_far_a_client_has_come(text: str, position: Position) -> None:
    assert parse(text) == position


@given(stream_ids, processes, sequences)
def test_every_id_that_is_written_can_be_read(entry: EntryId, process: str, sequence: int) -> None:
    assert parse(written(entry, None, 0)) == (entry, None, 0)
    assert parse(written(None, process, sequence)) == (None, process, sequence)
    assert parse(written(entry, process, sequence)) == (entry, process, sequence)


@given(stream_ids, stream_ids)
def test_ids_of_a_log_are_ordered_as_in_redis(one: EntryId, other: EntryId) -> None:
    """By the milliseconds, then by the number, both as numbers and not as text."""
    assert entry_id(entry_text(one)) == entry_id(entry_text(one).encode()) == one
    first, second = sorted([one, other])
    assert (first[0], first[1]) <= (second[0], second[1])
    assert parse("9-10") > parse("9-9")  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "/",
        ".",
        "1",
        "1-",
        "-1",
        "1-1/",
        "/9f3c12ab77de.42",
        "1-19f3c12ab77de.42",
        "7-42 ",
        "9f3c12ab77de",
        "9f3c12ab77de.",
        ".42",
        "9f3c12ab77d.42",
        "9f3c12ab77dee.42",
        "9F3C12AB77DE.42",
        "9f3c12ab77dg.42",
        "9f3c12ab77de.-1",
        "9f3c12ab77de.4.2",
        "9f3c12ab77de.42/1-1",
        "1-1/1-1",
        "1-1//",
        "1-1\n",
        "\n1-1",
        "9f3c12ab77de.42\n",
        "1-1\0",
        "١-١",
        "²-0",
        "１-0",
        "9f3c12ab77de.٤٢",
        "+1-0",
        "1_0-0",
        "0x1-0",
        "1795462559402-0/9f3c12ab77de.42/9f3c12ab77de.42",
        "*",
        "$",
        "+",
        "1-*",
    ],
)
def test_what_no_process_of_this_service_gave_is_no_id(text: str) -> None:
    assert parse(text) is None


@given(st.text() | st.text("0123456789abcdef-./\n", max_size=MAX_LENGTH + 5) | st.from_regex(OURS))
@example("9" * 20 + "-" + "9" * 20 + f"/{PROCESS}." + "9" * 18)
def test_any_text_is_read_or_refused_and_nothing_foreign_is_read(text: str) -> None:
    """A header is bytes that anybody may send."""
    position = parse(text)
    if position is None:
        return
    assert OURS.fullmatch(text)
    assert len(text) <= MAX_LENGTH
    assert parse(written(*position)) == position


def test_ids_have_room_for_every_number_and_for_no_more() -> None:
    longest = written((LARGEST, LARGEST), PROCESS, 10**18 - 1)
    assert parse(longest) == ((LARGEST, LARGEST), PROCESS, 10**18 - 1)
    assert len(longest) <= MAX_LENGTH
    for digits in (21, 1000, 5000):  # int() itself refuses text of more than 4300 digits
        assert parse("9" * digits + "-0") is None
        assert parse("0-" + "9" * digits) is None
        assert parse(f"{PROCESS}." + "9" * digits) is None
