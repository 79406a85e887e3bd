"""Keys, tokens made by hand (so that they may be wrong in any way), and a server with a key set."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of the back end, long enough"


@dataclass(frozen=True)
class Key:
    """A key pair, or a secret."""

    algorithm: str
    sign: Callable[[bytes], bytes]
    pem: bytes = b""
    """The public key."""
    jwk: str = "{}"
    private: Any = None
    """What signs."""

    def __str__(self) -> str:
        return self.algorithm


def secret(text: str = SECRET, digest: str = "sha256", algorithm: str = "HS256") -> Key:
    jwk = {"kty": "oct", "k": encoded(text.encode())}
    return Key(algorithm, lambda data: hmac.digest(text.encode(), data, digest), jwk=json.dumps(jwk))


@cache
def rsa_key(bits: int = 2048) -> Key:
    key = rsa.generate_private_key(65537, bits)
    return Key(
        "RS256",
        lambda data: key.sign(data, padding.PKCS1v15(), SHA256()),
        _pem(key.public_key()),
        RSAAlgorithm.to_jwk(key.public_key()),
        key,
    )


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> Key:
    key = ec.generate_private_key(curve())
    size = (key.key_size + 7) // 8

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return Key("ES256", sign, _pem(key.public_key()), ECAlgorithm.to_jwk(key.public_key()), key)


@cache
def ed_key() -> Key:
    key = ed25519.Ed25519PrivateKey.generate()
    return Key("EdDSA", key.sign, _pem(key.public_key()), OKPAlgorithm.to_jwk(key.public_key()), key)


def _pem(key: Any) -> bytes:
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def seal(key: Key, header: bytes, payload: bytes) -> str:
    """A token of these very bytes."""
    data = f"{encoded(header)}.{encoded(payload)}"
    return f"{data}.{encoded(key.sign(data.encode()))}"


def token(key: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token that is valid for an hour, but for what is given here. None leaves a claim out."""
    key = key or secret()
    head = {"alg": key.algorithm, "typ": "JWT", **(header or {})}
    body = {"sub": "ann", "exp": int(time.time()) + 3600, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return seal(key, json.dumps(head).encode(), json.dumps(body).encode())


def forgeries(genuine: Key, other: Key) -> dict[str, str]:
    """Tokens that nobody who has `genuine` has made, in the ways that have worked against others."""
    good = token(genuine)
    head, body, signature = good.split(".")
    admin = encoded(json.dumps({"sub": "admin", "exp": int(time.time()) + 3600}).encode())
    made = {
        "nothing": ".",
        "no token": "x",
        "two parts": f"{head}.{body}",
        "no signature": f"{head}.{body}.",
        "a signature cut": f"{head}.{body}.{signature[:-8]}",
        "the signature of others": f"{head}.{admin}.{signature}",
        "another key": token(other, {"alg": genuine.algorithm}),
        "another key and its algorithm": token(other),
        "the public key as a secret": token(secret(genuine.pem.decode())),
        "the public key as a secret, SHA-512": token(secret(genuine.pem.decode(), "sha512", "HS512")),
        "a key of its own": token(other, {"jwk": json.loads(other.jwk)}),
        "a key at an address": token(other, {"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}),
        "a key of the file system": token(secret(""), {"kid": "../../../../dev/null"}),
        "detached": seal(
            genuine, b'{"alg":"%s","b64":false,"crit":["b64"]}' % genuine.algorithm.encode(), b""
        ),
        "five parts": f"{head}.{body}.{signature}.{body}.{signature}",
        "padded": f"{head}=.{body}=.{signature}=",
    }
    algorithms: tuple[object, ...] = ("none", "None", "NONE", "nOnE", "", None, 5, ["HS256"], {})
    for algorithm in algorithms:
        headless = encoded(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
        made[f"alg {algorithm!r}"] = f"{headless}.{body}."
        made[f"alg {algorithm!r} with a signature"] = f"{headless}.{body}.{signature}"
    for place in (0, len(body) // 2, len(body) - 3):
        changed = body[:place] + ("A" if body[place] != "A" else "B") + body[place + 1 :]
        made[f"letter {place} changed"] = f"{head}.{changed}.{signature}"
    return made


class KeyServer:
    """What stands at SSE_JWT_JWKS_URL: gives every request the same answer, and counts them."""

    def __init__(self) -> None:
        self.answer: bytes | list[str] = []
        """JSON Web Keys, or the whole of an answer."""
        self.asked = 0
        self.agents: set[str | None] = set()
        """What `User-Agent` said."""
        self.being_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    def offer(self, **keys: Key) -> None:
        """A key set of these, by key id."""
        self.answer = [json.dumps({**json.loads(key.jwk), "kid": kid}) for kid, key in keys.items()]

    def respond(self) -> bytes:
        self.asked += 1
        self.being_asked.set()
        self.may_answer.wait(30)
        if isinstance(self.answer, bytes):
            return self.answer
        body = json.dumps({"keys": [json.loads(key) for key in self.answer]})
        return f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@contextmanager
def key_server() -> Iterator[KeyServer]:
    keys = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.agents.add(self.headers["user-agent"])
            self.wfile.write(keys.respond())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        keys.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield keys
        finally:
            keys.may_answer.set()
            server.shutdown()
            thread.join()
