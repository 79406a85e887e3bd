"""Settings as a process reads them: out of its environment."""

from __future__ import annotations

import pytest

from trio_sse.settings import Settings, SettingsError, load


def from_env(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> Settings:
    if name.startswith(("SSE_JWT_", "SSE_PUBLIC_TOPICS")) and value:
        monkeypatch.setenv("SSE_AUTH", "jwt")
        if name not in ("SSE_JWT_JWKS_URL", "SSE_JWT_PUBLIC_KEY_FILE"):
            monkeypatch.setenv("SSE_JWT_SECRET", "s" * 32)
    monkeypatch.setenv(name, value)
    return load()


def mistakes(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    return caught.value.lines
