"""Which state of a connection follows which, by what happens to it."""

from __future__ import annotations

import pytest

from tests.support.inside import new_hub, unbegun
from trio_sse.delivery.connection import Connection
from trio_sse.delivery.states import State

TRANSITIONS = {
    State.WAITING: {"begin": State.CATCHING_UP, "end": State.CLOSED, "leave": State.LEFT},
    State.CATCHING_UP: {"end": State.CLOSED, "leave": State.LEFT, "take_waiting": State.LIVE},
    State.LIVE: {"end": State.CLOSED, "leave": State.LEFT, "take_waiting": State.LIVE},
    State.CLOSED: {"begin": State.CLOSED, "end": State.CLOSED, "leave": State.LEFT},
    State.LEFT: {"end": State.LEFT, "leave": State.LEFT, "take_waiting": State.LEFT},
}


def in_state(state: State) -> Connection:
    connection = unbegun(new_hub())
    if state in (State.CATCHING_UP, State.LIVE):
        connection.begin(b"hello", 0)
    if state is State.LIVE:
        connection.take_waiting()
    if state is State.CLOSED:
        connection.end()
    if state is State.LEFT:
        connection.leave()
    assert connection.state is state
    return connection


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("action", ["begin", "end", "leave", "take_waiting"])
def test_a_connection_goes_from_state_to_state_as_its_table_says(state: State, action: str) -> None:
    connection = in_state(state)
    arguments = (b"hello", 0) if action == "begin" else ()
    if action == "begin" and action not in TRANSITIONS[state]:
        with pytest.raises(AssertionError, match="does not go from"):
            getattr(connection, action)(*arguments)
        return
    getattr(connection, action)(*arguments)
    assert connection.state is TRANSITIONS[state].get(action, state)
    assert connection.closed is (connection.state in (State.CLOSED, State.LEFT))


@pytest.mark.parametrize("state", State)
def test_no_state_follows_itself_and_none_comes_after_the_last(state: State) -> None:
    assert not state.may_become(state)
    assert not State.LEFT.may_become(state)
