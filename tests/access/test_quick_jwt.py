"""The quick ways around PyJWT's own: they say what PyJWT says. What tokens prove: test_tokens.py."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.algorithms import HMACAlgorithm

from tests.support.tokens import SECRET, seal, secret, token
from trio_sse.access.quick_jwt import QuickJWT, prepared_secret

OPTIONS: Any = {"require": ["exp"], "verify_iat": False, "verify_sub": False}
OURS = QuickJWT(OPTIONS)
THEIRS = jwt.PyJWT(OPTIONS)
PREPARED = prepared_secret(SECRET, "HS256")


def verdict(reader: jwt.PyJWT, key: Any, made: str) -> str:
    """What is read of a token, or the kind of error."""
    try:
        return repr(reader.decode_complete(made, key, algorithms=["HS256", "HS384", "HS512"]))
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        return type(error).__name__


def agree(made: str) -> str:
    said = verdict(OURS, PREPARED, made)
    assert said == verdict(THEIRS, PREPARED, made)
    return said


def test_a_good_token_is_read_in_the_same_way() -> None:
    assert "'sub': 'ann'" in agree(token())


HEAD = b'{"alg":"HS256"}'
FUTURE = b'"exp":99999999999'


@given(st.binary() | st.binary().map(lambda more: b"{" + FUTURE + b',"a":"' + more + b'"}'))
@example(b"{" + FUTURE + b',"a":1,"a":2}')
@example(b"{" + FUTURE + b',"a":1e400}')
@example(b"{" + FUTURE + b',"a":Infinity}')
@example(b"{" + FUTURE + b',"a":"\\ud800"}')
@example(b"{" + FUTURE + b',"a":"\xed\xa0\x80"}')
@example(b"{" + FUTURE + b',"a":' + b"9" * 100 + b"}")
@example(b"{" + FUTURE + b',"a":' + b"9" * 5000 + b"}")
@example(b"\xef\xbb\xbf{" + FUTURE + b"}")
@example(('{"exp":99999999999}').encode("utf-16"))
@example(b"[" + FUTURE + b"]")
@example(b"[" * 3000)
def test_whatever_is_signed_is_read_in_the_same_way(payload: bytes) -> None:
    agree(seal(secret(), HEAD, payload))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_every_claim_is_read_in_the_same_way(value: object) -> None:
    said = agree(seal(secret(), HEAD, json.dumps({"exp": 99999999999, "a": value}).encode()))
    assert said.startswith("{")


GOOD = token(sub="x" * 20)
LETTERS = st.sampled_from("AZaz09-_+/=. \n~é\0")


@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.text(LETTERS, max_size=4))
@example(GOOD.index("."), 0, "=")
@example(GOOD.index("."), 0, "==")
@example(len(GOOD), 0, "=")
@example(len(GOOD), 1, "B")
def test_a_token_with_letters_changed_is_read_in_the_same_way(place: int, gone: int, more: str) -> None:
    agree(GOOD[:place] + more + GOOD[place + gone :])


SEGMENTS = st.binary(max_size=9) | st.text("AQZaz09-_+/= ", max_size=9).map(str.encode)


@given(SEGMENTS)
@example(b"")
@example(b"QQ")
@example(b"QR")  # bits that say nothing
@example(b"QQ==")
@example(b"-_-_")
@example(b"+/+/")
def test_a_part_is_taken_exactly_if_pyjwt_takes_it(segment: bytes) -> None:
    said = []
    for jws in (OURS._jws, THEIRS._jws):
        try:
            said.append(repr(jws._decode_base64url_segment(segment, "payload")))
        except jwt.DecodeError as error:
            said.append(str(error))
    assert said[0] == said[1]


def test_a_key_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_secret(SECRET, "HS256")

    def again(self: HMACAlgorithm, key: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(HMACAlgorithm, "prepare_key", again)
    monkeypatch.setattr(HMACAlgorithm, "check_key_length", again)
    assert "'sub': 'ann'" in verdict(OURS, prepared, token())


def test_a_plain_token_is_read_without_pyjwt_s_own_reading_of_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def letters(segment: bytes, name: str) -> bytes:
        raise AssertionError

    monkeypatch.setattr(jwt.PyJWS, "_decode_base64url_segment", letters)
    assert "'sub': 'ann'" in verdict(OURS, PREPARED, token(more="??>>" * 9))


def test_a_prepared_secret_is_for_one_algorithm() -> None:
    long = "x" * 64
    key = prepared_secret(long, "HS256")
    assert verdict(OURS, key, token(secret(long))).startswith("{")
    assert verdict(OURS, key, token(secret(long, "sha512", "HS512"))) == "InvalidAlgorithmError"


@pytest.mark.parametrize(
    "text",
    ["ssh-rsa " + "A" * 40, '{"kty":"oct","k":"' + "A" * 40 + '"}'],
)
def test_what_looks_like_another_kind_of_key_is_no_secret(text: str) -> None:
    with pytest.raises(jwt.InvalidKeyError):
        prepared_secret(text, "HS256")
