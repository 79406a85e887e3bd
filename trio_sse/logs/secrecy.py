"""What must not be read in a log: the secrets of the settings, tokens, passwords in addresses, cookies.

No line of this package has any of these. This is for what others put in: the access log of a server, an error
of a library, an address that a client chose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

from pydantic import SecretStr

from trio_sse.settings import Settings

HIDDEN = "***"

SHORTEST = 6
"""Characters of the shortest secret that is looked for. A shorter one is a part of many words; hiding it
there would tell it."""

_PARAMETERS = {
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "client_secret",
    "id_token",
    "jwt",
    "password",
    "passwd",
    "refresh_token",
    "secret",
    "sig",
    "signature",
    "token",
}

# Each of these is linear in the length of the text: a run of characters is entered at its beginning alone.
_LOGIN = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\"'<>]*@")  # RFC 3986, 3.2.1
_TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)*")  # a JSON object in base64url (RFC 7515, 3.1)
_SCHEME = re.compile(
    r"\b((?i:Bearer|Basic|Digest|Negotiate))(?:\s|%20|\+){1,4}(?=[\w.~+/-]*[\d=A-Z._-])[\w.~+/=-]{6,}"
)
_FIELD = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie2?|x-(?:api-key|auth-token))"
    r"(\s*[:=]\s*(?:b?\\?[\"'])?|\\?[\"']\s*[:=,]\s*(?:b?\\?[\"'])?)"
    r"(?:[^\"'\\\r\n]|\\.)+",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?<![\w%.~-])([\w%.~-]+)=([^\s&;\"'<>\\]+)")

Hide = Callable[[str], str]


def hiding(settings: Settings) -> Hide:
    """A function that hides what must not be read in a text."""
    known = re.compile("|".join(map(_whole, _spellings(_secrets(settings)))) or r"(?!)")

    def hide(text: str) -> str:
        text = _LOGIN.sub(rf"\1{HIDDEN}@", known.sub(HIDDEN, text))
        text = _FIELD.sub(rf"\1\2{HIDDEN}", text)
        text = _SCHEME.sub(rf"\1 {HIDDEN}", _TOKEN.sub(HIDDEN, text))
        return _PARAMETER.sub(_parameter, text)

    return hide


def hidden_in(value: Any, hide: Hide) -> Any:
    """`value` for a JSON text, without what must not be read in it. What JSON does not know becomes its
    `repr`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {hide(str(key)): _below(str(key), item, hide) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [hidden_in(item, hide) for item in value]
    return hide(repr(value))


def _below(key: str, value: Any, hide: Hide) -> Any:
    if isinstance(value, str) and _FIELD.match(f"{key}:{value}"):
        return HIDDEN
    return hidden_in(value, hide)


def _parameter(match: re.Match[str]) -> str:
    name = unquote_plus(match[1]).lower().replace("-", "_")
    return f"{match[1]}={HIDDEN}" if name in _PARAMETERS else match[0]


def _secrets(settings: Settings) -> set[str]:
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    values += [*settings.publish_token_list, settings.single_server.password or ""]
    for value in list(values):
        values += value.splitlines()  # of a secret that is a file
    return {value for value in values if len(value) >= SHORTEST}


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Each secret as it is, in a JSON text, in Python, and in an address. The longest come first."""
    found: set[str] = set()
    for secret in secrets:
        found |= {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote(secret)}
        found.add(quote_plus(secret))
    return sorted(found, key=len, reverse=True)


def _whole(text: str) -> str:
    """A pattern for `text` where it is not a part of a longer word."""
    return rf"(?<!\w){re.escape(text)}(?!\w)"
