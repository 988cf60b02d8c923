"""Parallama: the gateway that lets many people share a few Ollama machines.

Holds the version and, imported only when asked for, the names that plugin authors use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "hookimpl": "parallama.gateway.hookspecs",
    **dict.fromkeys(
        ("Body", "Codec", "Gateway", "Head", "Inbound", "Outbound", "Reply", "ReplyFacts", "Route", "Use"),
        "parallama.gateway.api",
    ),
    "NdjsonCodec": "parallama.gateway.ndjson",
    **dict.fromkeys(
        (
            "ApiError",
            "BadRequest",
            "BodyTooLarge",
            "ConfigError",
            "ModelUnknown",
            "NoNode",
            "NotAllowed",
            "NotAllowedMethod",
            "NotAuthenticated",
            "NotFound",
            "TimedOut",
            "Unavailable",
            "UpstreamFailed",
        ),
        "parallama.errors",
    ),
    "Usage": "parallama.exchange",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use so that `parallama --version` stays fast (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'parallama' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
