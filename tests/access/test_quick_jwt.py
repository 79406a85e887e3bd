"""Secrets that were prepared once. What tokens prove: test_tokens.py."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from jwt.algorithms import HMACAlgorithm

from tests.support.tokens import SECRET, secret, token
from trio_sse.access.quick_jwt import prepared_secret

OPTIONS: Any = {"require": ["exp"], "verify_iat": False, "verify_sub": False}
OURS = jwt.PyJWT(OPTIONS)


def verdict(reader: jwt.PyJWT, key: Any, made: str) -> str:
    """What is read of a token, or the kind of error."""
    try:
        return repr(reader.decode_complete(made, key, algorithms=["HS256", "HS384", "HS512"]))
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        return type(error).__name__


def test_a_key_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_secret(SECRET, "HS256")

    def again(self: HMACAlgorithm, key: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(HMACAlgorithm, "prepare_key", again)
    monkeypatch.setattr(HMACAlgorithm, "check_key_length", again)
    assert "'sub': 'ann'" in verdict(OURS, prepared, token())


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
