"""The secret that signs access tokens: of the settings, or made once and kept in the state directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr, ValidationError

from parallama.config import AuthSettings
from parallama.config.secret import read_secret
from parallama.errors import ConfigError

FILE = "jwt_secret"
"""In the state directory, mode 0600."""


def signing_secret(auth: AuthSettings, state: Path) -> str:
    """`auth.jwt_secret`, or without it what the file holds, which the first start makes.

    Raises ConfigError when the file cannot be made, is open to others, or holds no 32 random bytes.
    """
    if auth.jwt_secret is not None:
        return auth.jwt_secret.get_secret_value()
    path = state / FILE
    try:
        if not path.exists():
            _make(path)
        return _strong(read_secret(path))
    except ValueError as error:
        raise ConfigError(f"{path} {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}; or set auth.jwt_secret") from None


def _make(path: Path) -> None:
    """Put a new secret there, whole or not at all; of several processes that start at once, the first one's stays."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(48) + "\n")
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _strong(text: str) -> str:
    """The text, if the setting might be it. Raises ValueError."""
    try:
        AuthSettings(jwt_secret=SecretStr(text))
    except ValidationError:
        raise ValueError("must hold at least 32 random bytes: delete it, and a new one is made") from None
    return text
