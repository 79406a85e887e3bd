"""PyJWT, without the work that is the same for all tokens."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm


class _PreparedHMAC(HMACAlgorithm):
    """HMAC with a key that PyJWT has prepared and found long enough. To do that for each token, to see that a
    secret is no key of another kind, takes as long as the rest of verifying it."""

    def prepare_key(self, key: Any) -> bytes:
        assert isinstance(key, bytes)
        return key

    def check_key_length(self, key: bytes) -> None:
        pass


def prepared_secret(text: str, algorithm: str) -> jwt.PyJWK:
    """A secret for one HMAC algorithm. It must be long enough for that.

    Raises jwt.InvalidKeyError if it looks like a key of another kind.
    """
    hmac = jwt.get_algorithm_by_name(algorithm)
    assert isinstance(hmac, HMACAlgorithm)
    secret = hmac.prepare_key(text)
    key = jwt.PyJWK({"kty": "oct", "k": urlsafe_b64encode(secret).decode()}, algorithm)
    key.Algorithm = _PreparedHMAC(hmac.hash_alg)
    return key
