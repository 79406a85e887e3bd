"""The settings, and the only reader of the environment."""

from trio_sse.settings.loading import load
from trio_sse.settings.model import UNIX, Proxy, Settings, SettingsError, env_name, is_secret

__all__ = ["UNIX", "Proxy", "Settings", "SettingsError", "env_name", "is_secret", "load"]
