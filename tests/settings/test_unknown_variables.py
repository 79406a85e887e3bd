"""Variables that look like settings and are none."""

from __future__ import annotations

import pytest

from trio_sse.settings import Settings, env_name
from trio_sse.settings.unknown_variables import unknown

NAMES = {env_name(field) for field in Settings.model_fields}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SSE_REDIS_CHANEL", "SSE_REDIS_CHANNEL"),
        ("SSE_HEARTBEAT", "SSE_HEARTBEAT_SECONDS"),
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("REDIS_USER_NAME", "REDIS_USERNAME"),
        ("REDIS_DB", "REDIS_MAIN_DB"),
        ("REDIS_SENTINEL", "REDIS_SENTINELS"),
        ("sse_prot", "SSE_PORT"),
        ("REDIS_PASWORD_FILE", "REDIS_PASSWORD"),
    ],
)
def test_each_is_one_line_with_the_nearest_name_and_without_its_value(name: str, nearest: str) -> None:
    (line,) = unknown({name: "s3cret"}, NAMES)
    assert line == f"{name} is no setting; the nearest is {nearest}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_SERVICE_HOST", "10.0.0.1"),
        ("REDIS_SERVICE_PORT", "6379"),
        ("REDIS_SERVICE_PORT_TCP_REDIS", "6379"),
        ("REDIS_MASTER_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("REDIS_MASTER_PORT_6379_TCP_PROTO", "tcp"),
        ("SSE_SERVICE_HOST", "10.0.0.1"),
        ("SSE_SERVICE_PORT_HTTP", "80"),
        ("SSE_PORT_80_TCP_PORT", "80"),
        ("REDIS_NAME", "/app/redis"),
        ("REDIS_ENV_PATH", "/bin"),
        ("REDIS_VERSION", "7.0.15"),
        ("REDIS_DOWNLOAD_URL", "http://download.redis.io"),
        ("REDIS_DOWNLOAD_SHA", "abc"),
        ("SSE_PORT", "80"),
        ("sse_port", "80"),
        ("REDIS_PASSWORD_FILE", "/run/secrets/redis"),
        ("PATH", "/bin"),
        ("REDISCLOUD_URL", "redis://h"),
    ],
)
def test_what_others_set_is_no_business_of_ours(name: str, value: str) -> None:
    assert list(unknown({name: value}, NAMES)) == []
