"""Reads the environment, without what containers and files add to values.

Values come through shells, `docker --env-file` (which keeps quotes and comments), files with CRLF or a byte
order mark, Kubernetes' service links and mounted secrets. What cannot be part of a value is removed where
that is safe, and refused where it would be a guess: the service could subscribe to a channel with a quote in
its name, and no message would ever come.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

MAX_SECRET_FILE_BYTES = 65536


class Variable(NamedTuple):
    """How one variable is read."""

    name: str
    secret: bool = False
    """Its value is not changed, and NAME_FILE may name a file that has it."""
    listed: bool = False
    """A comma list: each part is read like a value."""
    former_name: str | None = None
    """Its former name, which counts if `name` is not set."""


class Refused(NamedTuple):
    """A value that cannot be used."""

    reason: str
    text: str = ""
    name: str | None = None
    """The variable to change, if it is not the setting's own."""


class Found(NamedTuple):
    """What the environment says."""

    values: dict[str, str | Refused]
    """By the name of the variable, without those that are missing or empty."""
    notices: list[str]
    """Remarks for the log, a line each."""


def read(environment: Mapping[str, str], variables: list[Variable]) -> Found:
    """Read `variables`. Reads the files that NAME_FILE names. Raises nothing."""
    named = _named(environment)
    values: dict[str, str | Refused] = {}
    notices: list[str] = []
    for variable in variables:
        text = named.get(variable.name, "")
        if not text and variable.former_name in named:
            text = named[variable.former_name]
            notices.append(f"{variable.former_name} is called {variable.name} now; the old name still works")
        if variable.secret:
            value = _secret(variable.name, text, named)
        elif variable.listed:
            value = _listed(text)
        else:
            value = _cleaned(text)
        if value != "":
            values[variable.name] = value
    _resolve_service_links(values, notices)
    return Found(values, notices)


# A leading `export`, blanks and a byte order mark belong to the file that a name came from.
_ABOUT_A_NAME = re.compile(r"^[\s\ufeff]*(?:export\s+)?|[\s\ufeff]+$")


def _named(environment: Mapping[str, str]) -> dict[str, str]:
    """Values by name in capitals, since a name may be in any case. The exact name counts first."""
    odd = {_ABOUT_A_NAME.sub("", name).upper(): value for name, value in environment.items()}
    return {**odd, **environment}


_AROUND = (
    " \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\xad"
)
_QUOTES = "\"'"
_OTHER_QUOTES = "`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_COMMENT = re.compile(r"\s#")
# U+200C and U+200D join letters in Persian and Indic scripts, and emoji.
_JOINERS = "\u200c\u200d"


def _cleaned(text: str) -> str | Refused:
    """The value without blanks and one pair of quotes around it."""
    bare = text.strip(_AROUND)
    value = _unquoted(bare).strip(_AROUND)
    if value[:1] in tuple(_QUOTES + _OTHER_QUOTES) or value[-1:] in tuple(_QUOTES + _OTHER_QUOTES):
        return Refused("it begins or ends with a quotation mark", text)
    if _unquoted(bare) is bare and (_COMMENT.search(value) or value.startswith("#")):
        return Refused('it has a comment ("#"); quote the value if the # belongs to it', text)
    for character in value:
        if not _can_be_seen(character):
            return Refused(f"it has a character that cannot be seen (U+{ord(character):04X})", text)
    return value


def _unquoted(value: str) -> str:
    """The value without the quotes around it; `value` itself if there are none."""
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
    return value[1:-1] if in_quotes and value[0] not in value[1:-1] else value


def _can_be_seen(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _listed(text: str) -> str | Refused:
    """A comma list, in quotes as a whole or part by part. Line ends separate too (YAML's `|`)."""
    whole = _unquoted(text.strip(_AROUND)).strip(_AROUND)
    parts = []
    for part in re.split(r"[,\r\n]", whole):
        cleaned = _cleaned(part)
        if isinstance(cleaned, Refused):
            return cleaned._replace(text=text)
        if cleaned:
            parts.append(cleaned)
    return ",".join(parts) or ("," if whole else "")


def _secret(name: str, text: str, named: Mapping[str, str]) -> str | Refused:
    """A secret, from its variable or from a file. Only line ends at its end are removed."""
    file_name = f"{name}_FILE"
    path = _cleaned(named.get(file_name, ""))
    value = text.rstrip("\r\n")
    if value in ('""', "''"):
        value = ""
    if isinstance(path, Refused):
        return path._replace(name=file_name)
    if path and value:
        return Refused(f"{name} and {file_name} are both set: unset one of them", name=file_name)
    if path:
        return _file(file_name, path)
    if any(unicodedata.category(character) == "Cs" for character in value):
        return Refused("it is not UTF-8")
    if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
        return Refused(
            "it is in quotes, which `docker --env-file` keeps: take them off. A secret that has them can be "
            f"read from a file ({file_name})"
        )
    return value


def _file(name: str, path: str) -> str | Refused:
    """The text of a file, without the one line end that `echo` and editors add."""

    def refused(reason: str) -> Refused:
        return Refused(reason, path, name)

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # only one worker could read a pipe
            return refused("it is not a regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        return refused(getattr(error, "strerror", None) or str(error))
    if len(data) > MAX_SECRET_FILE_BYTES:
        return refused(f"the file has more than {MAX_SECRET_FILE_BYTES} bytes")
    try:
        value = data.decode()
    except UnicodeDecodeError:
        return refused("the file is not UTF-8 text")
    if "\0" in value or value.startswith("\ufeff"):
        return refused("the file is not plain UTF-8 text: it has NUL bytes or a byte order mark")
    value = re.sub(r"\r?\n\Z", "", value)
    return value or refused("the file is empty")


# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_LINK = re.compile(r"(tcp|udp|sctp)://(?:\[([0-9a-fA-F:.%]+)\]|([^\s/@\[\]]*)):([0-9]+)/?", re.IGNORECASE)
_LINKED = re.compile(
    r".+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def is_service_link(name: str) -> bool:
    """Whether Kubernetes or Docker sets a variable of this name for another service."""
    return _LINKED.fullmatch(name) is not None


def _resolve_service_links(values: dict[str, str | Refused], notices: list[str]) -> None:
    """Kubernetes, not the operator, sets NAME_PORT=tcp://10.0.0.1:6379 beside a Service called NAME.

    It is that service's address. It is used for Redis if no other address was given, and never as the address
    to listen on.
    """
    value = values.get("REDIS_PORT")
    if isinstance(value, str) and (link := _LINK.fullmatch(value)):
        del values["REDIS_PORT"]
        host = link[2] or link[3]
        if "REDIS_URL" in values or "REDIS_SENTINELS" in values:
            notices.append(f"REDIS_PORT={value} is a service link of Kubernetes, and not used")
        elif link[1].lower() != "tcp":
            notices.append(f"REDIS_PORT={value} is a service link of Kubernetes, not for TCP, and not used")
        else:
            used = "port is" if "REDIS_HOST" in values or not host else "host and port are"
            values["REDIS_PORT"] = link[4]
            if host:
                values.setdefault("REDIS_HOST", host)
            notices.append(f"REDIS_PORT={value} is a service link of Kubernetes: its {used} used")
    value = values.get("SSE_PORT")
    if isinstance(value, str) and _LINK.fullmatch(value):
        del values["SSE_PORT"]
        notices.append(
            f"SSE_PORT={value} is a service link of Kubernetes, and no port to listen on: not used"
        )
