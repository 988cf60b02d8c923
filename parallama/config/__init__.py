"""The settings: frozen and typed, from built-in defaults, the settings file, the environment and flags.

Read settings.py for what there is, resolve.py for how it comes together.
"""

from __future__ import annotations

from parallama.config.layers import Level, Origin
from parallama.config.places import ollama_host, settings_file, state_directory
from parallama.config.resolve import Resolved, Row, load_settings, resolve
from parallama.config.secret import mask_url, secrets
from parallama.config.settings import (
    AuthSettings,
    DatabaseSettings,
    LogsSettings,
    ModelsSettings,
    NodeSettings,
    RedisSettings,
    RelaySettings,
    ServerSettings,
    Settings,
    UsageSettings,
)

__all__ = [
    "AuthSettings",
    "DatabaseSettings",
    "Level",
    "LogsSettings",
    "ModelsSettings",
    "NodeSettings",
    "Origin",
    "RedisSettings",
    "RelaySettings",
    "Resolved",
    "Row",
    "ServerSettings",
    "Settings",
    "UsageSettings",
    "load_settings",
    "mask_url",
    "ollama_host",
    "resolve",
    "secrets",
    "settings_file",
    "state_directory",
]
