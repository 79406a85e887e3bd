"""Keys that verify tokens, and the algorithms that each is for (RFC 7518, 3.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from trio_sse.access.quick_jwt import prepared_secret
from trio_sse.settings import SettingsError

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: dict[type[ec.EllipticCurve], str] = {
    ec.SECP256R1: "ES256",
    ec.SECP384R1: "ES384",
    ec.SECP521R1: "ES512",
}
_HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret must be as long as the hash (RFC 7518, 3.2)."""

PUBLIC_KEY_ALGORITHMS = frozenset({*_RSA, *_CURVES.values(), "EdDSA"})


class Key(NamedTuple):
    """A key, and the algorithms it may be used with."""

    key: Any
    algorithms: tuple[str, ...]
    id: str | None = None
    """`kid` of a key set."""
    prepared: Mapping[str, jwt.PyJWK] = MappingProxyType({})
    """The key as PyJWT takes it without further work, for each algorithm that has such a form."""

    def for_algorithm(self, name: str) -> Any:
        """What PyJWT verifies a token with whose header has this `alg`. It need not be one of `algorithms`:
        PyJWT refuses such a token."""
        return self.prepared.get(name, self.key)


class UnavailableError(Exception):
    """Keys are needed and cannot be fetched."""


class Keys(Protocol):
    """A source of keys that verify tokens."""

    def usable(self) -> bool:
        """Whether there are keys to try. False: `ready` has to be awaited first."""
        ...

    async def ready(self) -> None:
        """Wait until there are keys to try. Raises UnavailableError."""
        ...

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The keys that may have signed a token whose header has this `kid` and `alg`."""
        ...

    def may_lack(self, kid: str | None, algorithm: str) -> bool:
        """Whether the key of such a token may have been published after the keys were fetched."""
        ...

    async def renewed(self, since: float) -> bool:
        """Wait for newer keys. True: the present ones were fetched after `since` (Trio's clock), so that
        there is nothing more to wait for.

        Raises UnavailableError.
        """
        ...

    async def run(self) -> None:
        """Fetch keys whenever they are needed, until cancelled. Returns at once if they never are."""
        ...


class FixedKeys:
    """Keys that the settings name. During a rotation there are several, and each is tried."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        names = {name for key in keys for name in key.algorithms}
        self._fit = {name: [key for key in keys if name in key.algorithms] for name in names}

    def usable(self) -> bool:
        return True

    async def ready(self) -> None:
        pass

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        return self._fit.get(algorithm, self._keys)

    def may_lack(self, kid: str | None, algorithm: str) -> bool:
        return False

    async def renewed(self, since: float) -> bool:
        return True

    async def run(self) -> None:
        pass


def secret(text: str) -> Key:
    """A secret as a key, for each HMAC algorithm that it is long enough for."""
    length = len(text.encode())
    names = tuple(name for name, least in _HMAC_BYTES.items() if length >= least)
    try:
        return Key(text, names, prepared={name: prepared_secret(text, name) for name in names})
    except jwt.InvalidKeyError:
        return Key(text, names)  # it looks like another kind of key: PyJWT refuses all tokens


def algorithms(key: object) -> tuple[str, ...]:
    """The algorithms that a public key is for. Raises jwt.InvalidKeyError if there are none, or if it is
    weak."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and (name := _CURVES.get(type(key.curve))):
        return (name,)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ("EdDSA",)
    raise jwt.InvalidKeyError(
        "no RSA key of at least 2048 bits, no P-256, P-384 or P-521 key, no Ed25519 key"
    )


_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def read_files(paths: Sequence[str]) -> list[Key]:
    """The public keys in PEM files. A file may have several keys, or certificates.

    Raises SettingsError, with one line for each file that is not accepted.
    """
    keys: list[Key] = []
    lines = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                keys += _read_pem(file.read())
        except (OSError, ValueError, TypeError, jwt.PyJWTError) as error:
            reason = " ".join(str(error).split())[:200]
            lines.append(
                f"SSE_JWT_PUBLIC_KEY_FILE={path!r} is not accepted ({reason}). Accepted: PEM files with "
                "public keys or certificates, for RS256, PS256, ES256 (and those with 384 and 512) or EdDSA."
            )
    if lines:
        raise SettingsError(lines)
    return keys


def _read_pem(text: bytes) -> list[Key]:
    keys = []
    for block in _PEM.finditer(text):
        if block[1] == b"CERTIFICATE":
            key: object = load_pem_x509_certificate(block[0]).public_key()
        else:
            key = load_pem_public_key(block[0])
        keys.append(Key(key, algorithms(key)))
    if not keys:
        raise ValueError("no PEM block in it")
    return keys
