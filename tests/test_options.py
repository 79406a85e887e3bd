"""Options of commands: which there are, and that they override the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import click
import pytest
from click.testing import CliRunner, Result

from trio_sse import options
from trio_sse.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    with mock.patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):
        yield


def run(*arguments: str, names: tuple[str, ...], check: SettingsError | None = None) -> Result:
    """A command with options for the settings `names`, which prints what became of them."""

    def refuse(_settings: Settings) -> None:
        if check is not None:
            raise check

    @click.command()
    @options.for_settings(lambda name: name in names)
    def command(**given: str | None) -> None:
        settings = options.read(given, refuse)
        click.echo(" ".join(str(getattr(settings, name)) for name in names))

    return CliRunner().invoke(command, arguments)


def test_only_the_settings_that_are_wanted_have_options() -> None:
    wanted = ("redis_host", "redis_password", "direct")
    output = run("--help", names=wanted).output
    for option in ("--redis-host ", "--redis-password-file ", "--direct, --door "):
        assert option in output
    assert "--redis-port" not in output
    assert "--redis-password " not in output


def test_an_option_overrides_the_environment() -> None:
    os.environ["REDIS_HOST"] = "environment"
    os.environ["REDIS_PORT"] = "1234"
    assert run("--redis-host", "option", names=("redis_host", "redis_port")).output == "option 1234\n"


def test_mistakes_are_a_line_each() -> None:
    result = run("--port", "x", "--buffer", "0", names=("port", "buffer"))
    assert result.exit_code == 1
    assert [line.split("=")[0] for line in result.stderr.splitlines()] == ["SSE_PORT", "SSE_BUFFER"]


def test_a_check_of_the_command_may_find_more() -> None:
    result = run(names=("port",), check=SettingsError(["one", "two"]))
    assert (result.exit_code, result.stderr) == (1, "one\ntwo\n")


def test_a_password_in_the_process_list_is_refused() -> None:
    result = run("--redis-url", "redis://:s3cret@x", names=("redis_url",))
    assert result.exit_code == 1
    assert "s3cret" not in result.output
