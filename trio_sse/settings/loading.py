"""Reads the settings of this process, checks them together, and refuses them with one line per mistake."""

from __future__ import annotations

import os
from typing import Any

from pydantic import ValidationError

from trio_sse.settings import contradictions, environment, unknown_variables
from trio_sse.settings.model import FORMER_NAMES, Settings, SettingsError, env_name, found, is_secret
from trio_sse.settings.redis_url import RedisURLError


def load(**overrides: Any) -> Settings:
    """Read the environment; `overrides` (by field name) come first.

    Raises SettingsError with one line for each value that is not accepted.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_line(mistake) for mistake in error.errors()]) from None
    if lines := list(contradictions.of(settings, os.environ)):
        raise SettingsError(lines)
    settings._notices = (*found().notices, *_remarks(settings))
    return settings


def _remarks(settings: Settings) -> list[str]:
    """One line for each setting that has no effect and does no harm, and for each unknown variable."""
    names = {env_name(field) for field in Settings.model_fields} | set(FORMER_NAMES.values())
    return [
        *contradictions.remarks(settings, os.environ),
        *unknown_variables.unknown(os.environ, names),
    ]


def _line(mistake: Any) -> str:
    key = str(mistake["loc"][0])
    name = next(name for name in Settings.model_fields if key in (name, env_name(name)))
    field = Settings.model_fields[name]
    extra = field.json_schema_extra
    accepts = extra["accepts"] if isinstance(extra, dict) else ""
    value, own = mistake["input"], env_name(name)
    # In an address, a login stands in front of an @.
    login = name.startswith("redis_") and "@" in str(value)
    hidden = is_secret(field) or login or "password=" in str(value)
    shown = "(hidden)" if hidden else repr(getattr(value, "text", value))[:80]
    if not isinstance(value, environment.Refused):
        error = mistake.get("ctx", {}).get("error")
        why = f": {error}" if isinstance(error, RedisURLError) and str(error) else ""
        return f"{own}={shown} is not accepted{why}. Accepted: {accepts}."
    if value.name is not None:  # a path is no secret
        return f"{value.name}={value.text[:200]!r} is not accepted: {value.reason}."
    return f"{own}={shown} is not accepted: {value.reason}. Accepted: {accepts}."
