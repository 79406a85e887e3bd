"""`trio-sse token`: a token that the service takes, or why there is none."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jwt
import pytest
from click.testing import CliRunner, Result

from tests.support.inside import settings
from tests.support.tokens import SECRET
from trio_sse.access.tokens import Identity, Verifier
from trio_sse.commands.token import claims, token

PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"


def run(*arguments: str, **environment: str) -> Result:
    with mock.patch.dict(os.environ, environment):
        return CliRunner().invoke(token, arguments)


def made(*arguments: str, **environment: str) -> tuple[str, dict[str, Any]]:
    result = run(*arguments, **{"SSE_JWT_SECRET": SECRET, **environment})
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    audience = environment.get("SSE_JWT_AUDIENCE", "").split(",")[0] or None
    return line, jwt.decode(line, SECRET, algorithms=["HS256"], audience=audience)


def test_the_service_takes_it() -> None:
    line, said = made("--user", "ann", "--expires", "1h")
    answer = Verifier(settings(auth="jwt", jwt_secret=SECRET)).verify_now(line)
    assert isinstance(answer, Identity)
    assert answer.user_id == "ann"
    assert said["exp"] - said["iat"] == 3600
    assert abs(said["iat"] - time.time()) < 10


def test_claims_are_named_as_the_settings_say() -> None:
    environment = {"SSE_JWT_USER_CLAIM": "uid", "SSE_JWT_AUDIENCE": "sse,other", "SSE_JWT_ISSUER": "shop"}
    line, said = made("--user", "1", **environment)
    assert (said["uid"], said["aud"], said["iss"]) == ("1", "sse", "shop")
    assert "sub" not in said
    verifier = Verifier(
        settings(
            auth="jwt",
            jwt_secret=SECRET,
            jwt_user_claim="uid",
            jwt_audience=("sse", "other"),
            jwt_issuer="shop",
        )
    )
    assert isinstance(verifier.verify_now(line), Identity)


def test_topics_are_granted_by_their_claim() -> None:
    _, said = made("--topics", "orders/**", "--topic", "news", "--topics", "news")
    assert said["topics"] == ["orders/**", "news"]
    assert "sub" not in said

    class Renamed:
        """Settings with a claim of another name."""

        jwt_user_claim, jwt_topics_claim, jwt_audience, jwt_issuer = "sub", "grants", (), None

    assert claims(Renamed(), None, ("news",), 0.0, 1)["grants"] == ["news"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("7d", 604_800)])
def test_times(text: str, seconds: int) -> None:
    _, said = made("--user", "1", "--expires", text)
    assert said["exp"] - said["iat"] == seconds


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--user", ""],
        ["--user", "*"],
        ["--topics", ""],
        ["--topics", "news", "--topics", "orders/1*"],
        ["--topics", "orders/**/items"],
        ["--user", "1", "--expires", "0"],
        ["--user", "1", "--expires", "1w"],
        ["--user", "1", "--expires", "99999d"],
    ],
)
def test_mistakes_in_the_options(arguments: list[str]) -> None:
    assert run(*arguments, SSE_JWT_SECRET=SECRET).exit_code == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "SSE_JWT_SECRET is not set"),
        ({"SSE_JWT_SECRET": "short"}, "SSE_JWT_SECRET is too short"),
        ({"SSE_JWT_JWKS_URL": "https://x/"}, "SSE_JWT_JWKS_URL is set"),
        ({"SSE_JWT_PUBLIC_KEY_FILE": "x.pem"}, "SSE_JWT_PUBLIC_KEY_FILE is set"),
        ({"SSE_JWT_SECRET": SECRET, "SSE_JWT_JWKS_URL": "https://x/"}, "only one"),
        ({"SSE_JWT_SECRET": PEM}, "key of another kind"),
    ],
)
def test_no_secret_to_sign_with_is_one_line(environment: dict[str, str], said: str) -> None:
    result = run("--user", "1", **environment)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert said in line


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    for arguments, environment in (
        (["--jwt-secret-file", str(tmp_path / "secret")], {}),
        ([], {"SSE_JWT_SECRET_FILE": str(tmp_path / "secret")}),
    ):
        result = run("--user", "1", *arguments, **environment)
        assert jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"])["sub"] == "1"
    assert run("--jwt-secret", SECRET, "--user", "1").exit_code == 2


def test_a_token_that_is_too_long_is_not_made() -> None:
    arguments = [part for n in range(100) for part in ("--topics", f"{n:0128}")]
    result = run(*arguments, SSE_JWT_SECRET=SECRET)
    assert result.exit_code == 1
    assert "8192" in result.stderr
