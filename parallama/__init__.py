"""Parallama: the gateway that lets many people share a few Ollama machines.

Holds the version and, imported only when asked for, the names that plugin authors use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from parallama.version import __version__

if TYPE_CHECKING:
    from parallama.client import AsyncParallamaClient, ParallamaClient
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
        Stopped,
        TimedOut,
        Unavailable,
        UpstreamFailed,
    )
    from parallama.exchange import Usage
    from parallama.gateway.api import (
        Body,
        Codec,
        Document,
        Gateway,
        Head,
        Inbound,
        Models,
        NoOptions,
        Outbound,
        Reply,
        ReplyFacts,
        Route,
        Use,
    )
    from parallama.gateway.counting import CountedCodec
    from parallama.gateway.fields import Fields, read_body
    from parallama.gateway.generation import Generation, Said, ToolCall
    from parallama.gateway.hookspecs import hookimpl
    from parallama.gateway.lines import json_line
    from parallama.gateway.listing import listed
    from parallama.gateway.ndjson import NdjsonCodec

__all__ = [
    "ApiError",
    "AsyncParallamaClient",
    "BadRequest",
    "Body",
    "BodyTooLarge",
    "Codec",
    "ConfigError",
    "CountedCodec",
    "Document",
    "Fields",
    "Gateway",
    "Generation",
    "Head",
    "Inbound",
    "ModelUnknown",
    "Models",
    "NdjsonCodec",
    "NoNode",
    "NoOptions",
    "NotAllowed",
    "NotAllowedMethod",
    "NotAuthenticated",
    "NotFound",
    "Outbound",
    "ParallamaClient",
    "Reply",
    "ReplyFacts",
    "Route",
    "Said",
    "Stopped",
    "TimedOut",
    "ToolCall",
    "Unavailable",
    "UpstreamFailed",
    "Usage",
    "Use",
    "__version__",
    "hookimpl",
    "json_line",
    "listed",
    "read_body",
]

_HOMES = (
    "parallama.gateway.api",
    "parallama.gateway.fields",
    "parallama.gateway.generation",
    "parallama.gateway.hookspecs",
    "parallama.gateway.counting",
    "parallama.gateway.lines",
    "parallama.gateway.listing",
    "parallama.gateway.ndjson",
    "parallama.errors",
    "parallama.exchange",
    "parallama.client.awaited",
    "parallama.client.waiting",
)


def __getattr__(name: str) -> Any:
    """The public names, imported on first use so that `parallama --version` stays fast (PEP 562)."""
    if name in __all__:
        for home in map(importlib.import_module, _HOMES):
            if name in vars(home):
                return getattr(home, name)
    raise AttributeError(f"module 'parallama' has no attribute {name!r}")
