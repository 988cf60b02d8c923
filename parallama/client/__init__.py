"""The Python client: ParallamaClient and AsyncParallamaClient, for either gateway, with the same calls.

Raises the errors as the server has answered them. `client.admin`, imported when it is first asked for, reads answers
into the records that the server has written them from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model, Usage
    from parallama.client.awaited import AsyncParallamaClient
    from parallama.client.waiting import ParallamaClient

__all__ = [
    "AsyncParallamaClient",
    "Chat",
    "Delta",
    "Embeddings",
    "Generation",
    "Model",
    "ParallamaClient",
    "Usage",
]

_HOMES = ("parallama.client.answers", "parallama.client.awaited", "parallama.client.waiting")


def __getattr__(name: str) -> Any:
    """Imported on first use: commands on this machine need no HTTP client (PEP 562)."""
    if name in __all__:
        for home in map(importlib.import_module, _HOMES):
            if name in vars(home):
                return getattr(home, name)
    raise AttributeError(f"module 'parallama.client' has no attribute {name!r}")
