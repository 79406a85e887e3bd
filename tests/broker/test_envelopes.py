"""Nobody gives commands but those who have the token, and no command is obeyed twice."""

from __future__ import annotations

import msgspec
import pytest

from trio_sse.broker.envelopes import ANSWER, VALID_SECONDS, EnvelopeError, Envelopes

TOKEN = "an operator's token"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def pair(token: str = TOKEN) -> tuple[Envelopes, Envelopes, Clock]:
    clock = Clock()
    return Envelopes(TOKEN, "one", clock), Envelopes(token, "other", clock), clock


def test_a_command_and_its_answer() -> None:
    one, other, _ = pair()
    nonce, payload = one.command("end", {"user": "ann"})
    message = other.open(payload)
    assert (message.kind, message.sender, message.nonce) == ("end", "one", nonce)
    assert msgspec.json.decode(message.what) == {"user": "ann"}
    answer = one.open(other.answer(nonce, [1, 2]))
    assert (answer.kind, answer.sender, answer.nonce) == (ANSWER, "other", nonce)
    assert bytes(answer.what) == b"[1,2]"


def test_with_another_token_it_is_not_obeyed() -> None:
    one, other, _ = pair("another token")
    with pytest.raises(EnvelopeError, match="SSE_ADMIN_TOKEN"):
        other.open(one.command("end", None)[1])


def test_whoever_may_publish_and_has_no_token_can_change_nothing_in_one() -> None:
    one, other, _ = pair()
    _, payload = one.command("end", {"user": "ann"})
    forged = [payload.replace(b"ann", b"bob"), payload[64:], b"0" * 64 + payload[64:]]
    for made in (*forged, b"", b" ", b'{"kind":"end"}'):
        with pytest.raises(EnvelopeError):
            other.open(made)
    other.open(payload)


def test_it_is_obeyed_once() -> None:
    one, other, _ = pair()
    _, payload = one.command("end", None)
    other.open(payload)
    with pytest.raises(EnvelopeError, match="before"):
        other.open(payload)


@pytest.mark.parametrize("seconds", [VALID_SECONDS + 1, -VALID_SECONDS - 1])
def test_an_old_one_is_not_obeyed_and_none_of_the_future(seconds: float) -> None:
    one, other, clock = pair()
    _, payload = one.command("end", None)
    clock.now += seconds
    with pytest.raises(EnvelopeError, match="old"):
        other.open(payload)


def test_as_long_as_one_could_be_sent_again_it_is_remembered() -> None:
    one, other, clock = pair()
    _, payload = one.command("end", None)
    clock.now -= VALID_SECONDS  # by the other's clock
    other.open(payload)
    clock.now += 2 * VALID_SECONDS
    with pytest.raises(EnvelopeError, match="before"):
        other.open(payload)
    clock.now += 1
    other.open(one.command("end", None)[1])
    assert len(other._seen) == 1, "and no longer"


def test_there_is_a_bound_to_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_sse.broker.envelopes.MOST_NONCES", 2)
    one, other, _ = pair()
    for _ in range(2):
        other.open(one.command("end", None)[1])
    with pytest.raises(EnvelopeError, match="too many"):
        other.open(one.command("end", None)[1])


def test_an_answer_cannot_be_taken_for_a_command() -> None:
    one, other, _ = pair()
    nonce, _ = one.command("end", None)
    assert other.open(one.answer(nonce, {"user": "ann"})).kind == ANSWER


def test_what_another_version_says_is_told_as_such() -> None:
    one, other, _ = pair()
    body = b'{"kind":"end"}'
    with pytest.raises(EnvelopeError, match="another version"):
        other.open(one._mac(body) + b" " + body)
