"""Options of the `trio-sse` command: one for each setting, which overrides the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from trio_sse.settings import Settings, SettingsError, env_name, is_secret, load, redis_url
from trio_sse.settings.model import FORMER_NAMES

# Every user of the machine can read a command line in the process list. REDIS_URL stays an option, since a
# URL need not contain a password.
_SECRET = {name for name, field in Settings.model_fields.items() if is_secret(field)} - {"redis_url"}
_VARIABLES = {env_name(name) for name in Settings.model_fields}


def _former_names(variable: str) -> list[str]:
    return [FORMER_NAMES[variable]] if variable in FORMER_NAMES else []


def for_settings(
    is_wanted: Callable[[str], bool] = lambda _name: True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per setting whose field name is wanted: `--port` for SSE_PORT. A secret has
    only the option for its file."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name in filter(is_wanted, reversed(Settings.model_fields)):
            command = _with_option(command, name)
        return command

    return decorate


def _with_option(command: Callable[..., None], name: str) -> Callable[..., None]:
    field = Settings.model_fields[name]
    if is_secret(field):
        command = click.option(
            f"--{name.replace('_', '-')}-file",
            f"{name}_file",
            metavar="PATH",
            help=f"file with {env_name(name)}: {field.description} [{env_name(name)}_FILE]",
        )(command)
    if name not in _SECRET:
        default = "none" if field.default in (None, "", ()) else field.default
        shown = ",".join(default) if isinstance(default, tuple) else default
        former = [f"--{old.removeprefix('SSE_').lower()}" for old in _former_names(env_name(name))]
        command = click.option(
            f"--{name.replace('_', '-')}",
            *former,
            name,
            metavar="VALUE",
            help=f"{field.description} [{env_name(name)}, default {shown}]",
        )(command)
    return command


def read(options: dict[str, str | None], check: Callable[[Settings], object] | None = None) -> Settings:
    """The settings of the environment, overridden by options. If they cannot be used, the command ends with a
    line for each mistake; `check` may find more, and raises SettingsError then."""
    if redis_url.has_secret(options.get("redis_url") or ""):
        fail(
            "--redis-url with a password shows in the process list: set REDIS_URL in the environment instead"
        )
    given = {_variable(option): value for option, value in options.items() if value is not None}
    # An option overrides the environment, whether the setting is there by value or by file.
    for name in given:
        setting = name if name in _VARIABLES else name.removesuffix("_FILE")
        for way in (setting, f"{setting}_FILE"):
            os.environ.pop(way, None)
    os.environ.update(given)  # worker processes read it
    try:
        settings = load()
        if check is not None:
            check(settings)
    except SettingsError as error:
        for line in error.lines:
            click.echo(line, err=True)
        sys.exit(1)
    return settings


def _variable(option: str) -> str:
    """The environment variable for an option: SSE_PORT for `port`, REDIS_URL_FILE for `redis_url_file`."""
    if option in Settings.model_fields:
        return env_name(option)
    return f"{env_name(option.removesuffix('_file'))}_FILE"


def fail(line: str) -> NoReturn:
    """End the command with a line and exit code 1."""
    click.echo(line, err=True)
    sys.exit(1)
