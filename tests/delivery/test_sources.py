"""How far an id can be trusted."""

from __future__ import annotations

from tests.support.inside import PROCESS
from trio_sse.delivery.event_ids import parse
from trio_sse.delivery.sources import Sources

OTHER = "0123456789ab"


def test_ids_that_may_be_of_the_log_before_are_doubtful() -> None:
    """It went on below where it had been: an id in between may be of either."""
    sources = Sources(PROCESS, has_log=True)
    for entry in ((0, 0), (5, 0), (2**64 - 1, 0)):
        assert not sources.is_doubtful(entry)
    sources.log_made_anew((2, 0), (4, 0))
    doubtful = {entry for entry in range(9) if sources.is_doubtful((entry, 0))}
    assert doubtful == {3, 4}
    assert sources.is_doubtful((2, 1))
    assert not sources.is_doubtful((4, 1))


def test_after_a_second_restart_ids_of_both_logs_before_are_doubtful() -> None:
    sources = Sources(PROCESS, has_log=True)
    sources.log_made_anew((2, 0), (8, 0))
    sources.log_made_anew((3, 0), (5, 0))
    assert [entry for entry in range(12) if sources.is_doubtful((entry, 0))] == [3, 4, 5, 6, 7, 8]


def test_without_a_log_the_channel_s_sequences_are_all_there_is() -> None:
    sources = Sources(PROCESS)
    sources.channel_brought(1)
    assert sources.channel_since is None
    assert sources.text(None, 1) == f"{PROCESS}.1"
    assert (sources.channel_doubt(0), sources.replay_doubt(1)) == (None, None)


def test_an_entry_s_id_says_nothing_of_the_channel_until_the_log_was_read_to_its_end() -> None:
    sources = Sources(PROCESS, has_log=True)
    sources.channel_brought(3)
    assert sources.channel_doubt(2) is None  # nobody has looked at the log yet
    sources.log_is_behind()
    assert [sources.channel_doubt(sequence) for sequence in (0, 2, 9)] == ["unknown_id"] * 3
    sources.log_caught_up(2)
    sources.log_caught_up(7)  # the first time counts
    assert [sources.channel_doubt(sequence) for sequence in (2, 3)] == ["unknown_id", None]
    sources.log_is_behind()
    assert sources.channel_doubt(3) == "unknown_id"
    sources.log_caught_up(7)
    assert [sources.channel_doubt(sequence) for sequence in (7, 8)] == ["unknown_id", None]


def test_with_the_channel_unused_nothing_of_it_is_missing() -> None:
    sources = Sources(PROCESS, has_log=True)
    sources.log_is_behind()
    assert (sources.channel_doubt(0), sources.replay_doubt(5), sources.lost_behind((5, 0))) == (None,) * 3


def test_an_id_is_ours_if_this_process_can_have_given_it() -> None:
    sources = Sources(PROCESS, has_log=True)
    ids = (f"{PROCESS}.5", f"{PROCESS}.6", f"7-0/{PROCESS}.5", f"{OTHER}.5", "7-0")
    positions = [position for text in ids if (position := parse(text))]
    assert [sources.is_ours(position, 5) for position in positions] == [True, False, True, False, False]
    assert [sources.is_mixed(position) for position in positions] == [True, True, True, True, False]
