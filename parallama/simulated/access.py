"""Whom Ollama talks to: its checks of Host and Origin (ollama-api section 10), for the simulator."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from parallama.simulated.http import Request


def admitted(request: Request, listens_on: str) -> bool:
    """Whether Ollama talks to this Host (checked on loopback only) and this Origin (ollama-api section 10)."""
    host, origin = request.header("host"), request.header("origin")
    if origin and urlsplit(origin).netloc.lower() != host.lower() and not _local_origin(origin):
        return False
    return not _is_ip(listens_on, loopback=True) or _local_host(urlsplit(f"//{host}").hostname or "")


def _local_origin(origin: str) -> bool:
    schemes = ("app", "file", "tauri", "vscode-webview", "vscode-file")
    parts = urlsplit(origin)
    return parts.scheme in schemes or parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104


def _local_host(name: str) -> bool:
    names = ("", "localhost")
    return name in names or name.endswith((".localhost", ".local", ".internal")) or _is_ip(name, loopback=False)


def _is_ip(name: str, *, loopback: bool) -> bool:
    try:
        address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return False
    return address.is_loopback or (not loopback and (address.is_private or address.is_unspecified))
