"""Certificates and tokens for the runs: made here, used for nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import time
from pathlib import Path

SECRET = "only-for-measuring-0123456789abcdef"
VALID_SECONDS = 24 * 3600


def certificate(folder: Path) -> tuple[Path, Path] | None:
    """A self-signed certificate for 127.0.0.1 and its key (P-256). None without the openssl command."""
    openssl = shutil.which("openssl")
    if not openssl:
        return None
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    key.chmod(0o644)  # the worker of nginx may run as another user
    return cert, key


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(user: int, secret: str) -> str:
    """An HS256 token for the user. `channels` is how Centrifugo learns what to subscribe to."""
    claims = {"sub": str(user), "exp": int(time.time()) + VALID_SECONDS, "channels": [str(user)]}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = b".".join(_part(json.dumps(p, separators=(",", ":")).encode()) for p in parts)
    return (signed + b"." + _part(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


def tokens_file(folder: Path, secret: str, count: int) -> Path:
    """A file with a token for each of the users 1..count, one a line."""
    path = folder / "tokens"
    path.write_text("".join(f"{token(user, secret)}\n" for user in range(1, count + 1)))
    return path
