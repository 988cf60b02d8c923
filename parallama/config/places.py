"""Where things are: the settings file, the state directory, and the Ollama that OLLAMA_HOST means."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from parallama.errors import ConfigError

SYSTEM_FILE = Path("/etc/parallama/config.yaml")
SYSTEM_STATE = Path("/var/lib/parallama")

_PORTS = {"http": "80", "https": "443"}
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def settings_file(option: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The option, PARALLAMA_CONFIG, or /etc/parallama/config.yaml if it exists; None: there is none."""
    named = option or environ.get("PARALLAMA_CONFIG")
    if named:
        return Path(named)
    return SYSTEM_FILE if os.path.lexists(SYSTEM_FILE) else None


def state_directory(option: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The state directory, absolute; it may not exist yet.

    The option, PARALLAMA_DATA_DIR, /var/lib/parallama for root, else `parallama` below XDG_DATA_HOME. Raises
    ConfigError when the user has no home directory.
    """
    named = option or environ.get("PARALLAMA_DATA_DIR")
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return SYSTEM_STATE
    return _data_home(environ) / "parallama"


def _data_home(environ: Mapping[str, str]) -> Path:
    """XDG base directory specification: a relative XDG_DATA_HOME is ignored."""
    given = Path(environ.get("XDG_DATA_HOME", ""))
    return given if given.is_absolute() else _home(environ) / ".local" / "share"


def _home(environ: Mapping[str, str]) -> Path:
    if environ.get("HOME"):
        return Path(environ["HOME"]).absolute()
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        raise ConfigError(f"user {os.geteuid()} has no home directory: set PARALLAMA_DATA_DIR") from None


def ollama_host(value: str | None) -> str:
    """The node URL that the environment variable OLLAMA_HOST means, read as Ollama reads it (envconfig.Host).

    A port that is none becomes the default of the scheme: 80, 443, or 11434 without one. Addresses that mean
    every network become the loopback. The result is no valid URL where `value` is beyond all sense.
    """
    text = (value or "").strip().strip("\"'").strip()
    scheme, sep, rest = text.partition("://")
    if not sep:
        scheme, rest = ("https", "ollama.com:443") if text == "ollama.com" else ("http", text)
    default = _PORTS.get(scheme, "11434") if sep else "11434"
    place, slash, path = rest.partition("/")
    host, port = _host_and_port(place, default)
    host = _LOOPBACK.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{(slash + path).rstrip('/')}"


def _host_and_port(place: str, default: str) -> tuple[str, str]:
    """Go's net.SplitHostPort; where that fails the whole is the host."""
    split = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([^\[\]:]*)", place)
    if split is None:
        return _address(place.strip("[]")) or place, default
    host, port = split[1] or split[2] or "", split[3]
    in_range = re.fullmatch(r"\+?[0-9]{1,9}|-0+", port) and int(port) <= 65535
    return _address(host) or host, str(abs(int(port))) if in_range else default


def _address(text: str) -> str | None:
    """The canonical form of an IP address; None when `text` is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
