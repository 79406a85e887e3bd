"""How long messages take: samples."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.support.inside import new_hub
from trio_sse.counters import Histogram
from trio_sse.delivery.delays import SAMPLE_SECONDS, Delays

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


class Bench:
    def __init__(self) -> None:
        self.found: dict[str, Histogram] = {}
        self.now, self.wall = 100.0, NOW
        self.delays = Delays(self.found, lambda: self.now, lambda: self.wall)

    def message(self, payload: bytes | None, entry: tuple[int, int] | None = None) -> None:
        self.delays.begin(payload, entry)
        self.delays.take()
        self.wall += 0.5
        self.delays.end()


@pytest.mark.parametrize(
    ("payload", "entry", "since", "seconds"),
    [
        (b'{"user_id":1}', None, "receipt", 0.5),
        (None, None, "receipt", 0.5),
        (b'{"created_at":"2026-01-01T11:59:58Z"}', None, "created_at", 2.5),
        (b'{"created_at":"2026-01-01T13:59:58+02:00"}', None, "created_at", 2.5),
        (b'{"created_at":%d}' % (NOW - 3), None, "created_at", 3.5),
        (b'{"created_at":"2026-01-01T11:59:58"}', None, "receipt", 0.5),  # of what time zone?
        (b'{"created_at":"yesterday"}', None, "receipt", 0.5),
        (b'{"created_at":null}', None, "receipt", 0.5),
        (b'{"created_at":%d}' % (1000 * NOW), None, "receipt", 0.5),
        (b'{"created_at":12}', None, "receipt", 0.5),
        (b'{"created_at":"2026-01-01T12:00:09Z"}', None, "created_at", 0),  # a clock that is ahead
        (b'{"created_at":"2026-01-01T11:59:58Z"}', (int(1000 * NOW) - 1000, 0), "log", 1.5),
        (b'{"created_at":"2026-01-01T11:59:58Z"}', (5, 0), "created_at", 2.5),
    ],
)
def test_it_counts_from_what_says_when_a_message_was_published(
    payload: bytes | None, entry: tuple[int, int] | None, since: str, seconds: float
) -> None:
    bench = Bench()
    bench.message(payload, entry)
    assert list(bench.found) == [since]
    assert bench.found[since].sum == pytest.approx(seconds)


def test_the_next_one_is_wanted_after_a_while() -> None:
    bench = Bench()
    assert bench.delays.wanted
    bench.message(b"{}")
    assert (bench.delays.wanted, bench.delays.due) == (False, 100 + SAMPLE_SECONDS)
    bench.delays.end()  # of a flush without one
    assert sum(bench.found["receipt"].counts) == 1


def test_one_that_comes_while_others_are_flushed_is_measured_with_its_own_flush() -> None:
    hub = new_hub()
    hub.take()
    hub.delays.begin(b"{}", None)
    hub.flushed()
    assert hub.counters.delays == {}
    hub.take()
    hub.flushed()
    assert sum(hub.counters.delays["receipt"].counts) == 1
