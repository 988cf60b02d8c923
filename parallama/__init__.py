"""Parallama: the gateway that lets many people share a few Ollama machines.

Holds the version and, imported only when asked for, the names that plugin authors use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parallama.version import __version__

if TYPE_CHECKING:
    from parallama.errors import (
        ApiError,
        BadRequest,
        BodyTooLarge,
        ConfigError,
        ModelUnknown,
        NoNode,
        NotAllowed,
        NotAllowedMethod,
        NotAuthenticated,
        NotFound,
        TimedOut,
        Unavailable,
        UpstreamFailed,
    )
    from parallama.exchange import Usage
    from parallama.gateway.api import (
        Body,
        Codec,
        Gateway,
        Head,
        Inbound,
        Outbound,
        Reply,
        ReplyFacts,
        Route,
        Use,
    )
    from parallama.gateway.hookspecs import hookimpl
    from parallama.gateway.ndjson import NdjsonCodec

__all__ = [
    "ApiError",
    "BadRequest",
    "Body",
    "BodyTooLarge",
    "Codec",
    "ConfigError",
    "Gateway",
    "Head",
    "Inbound",
    "ModelUnknown",
    "NdjsonCodec",
    "NoNode",
    "NotAllowed",
    "NotAllowedMethod",
    "NotAuthenticated",
    "NotFound",
    "Outbound",
    "Reply",
    "ReplyFacts",
    "Route",
    "TimedOut",
    "Unavailable",
    "UpstreamFailed",
    "Usage",
    "Use",
    "__version__",
    "hookimpl",
]

_HOMES = (
    "parallama.gateway.api",
    "parallama.gateway.hookspecs",
    "parallama.gateway.ndjson",
    "parallama.errors",
    "parallama.exchange",
)


def __getattr__(name: str) -> Any:
    """The public names, imported on first use so that `parallama --version` stays fast (PEP 562)."""
    if name in __all__:
        for home in map(importlib.import_module, _HOMES):
            if name in vars(home):
                return getattr(home, name)
    raise AttributeError(f"module 'parallama' has no attribute {name!r}")
