"""PyJWT, without the work that is the same for all tokens or that need not be done letter by letter.

PyJWT judges: whatever is not plain goes to its own code. What is plain is what its own code would accept.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.types import Options


class QuickJWT(jwt.PyJWT):
    """PyJWT with options that are put together once, and a quicker reader of JSON."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._jws = _QuickJWS()

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        """Read what msgspec can read. PyJWT decides about the rest: `Infinity`, UTF-16, lone surrogates."""
        try:
            return _read_object(decoded["payload"])
        except (ValueError, RecursionError):
            return super()._decode_payload(decoded)


_read_object = msgspec.json.Decoder(dict[str, Any]).decode


class _QuickJWS(jwt.PyJWS):
    """PyJWT looks at each letter of a token, which takes a third of the time of verifying it (see
    `patches`)."""

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        """Decode what is base64url without padding, in its one form. PyJWT decides about anything else."""
        plain = segment.translate(_TO_BASE64)
        try:
            decoded = binascii.a2b_base64(plain + b"==")
            if binascii.b2a_base64(decoded, newline=False).rstrip(b"=").translate(_FROM_BASE64) == segment:
                return decoded
        except ValueError:
            pass
        judged: bytes = jwt.PyJWS._decode_base64url_segment(segment, name)
        return judged


_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
_FROM_BASE64 = bytes.maketrans(b"+/", b"-_")


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
