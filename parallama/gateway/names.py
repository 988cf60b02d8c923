"""Names of models, and when two of them are one."""

from __future__ import annotations

from functools import lru_cache

_LONGEST_KEPT = 512
"""Characters; a client may send megabytes for a name."""


def canonical(name: str) -> str:
    """The form under which Ollama looks a name up: trimmed, lower-case, default host and namespace left out, with a
    tag (reference: types/model/name.go of Ollama)."""
    return _canonical(name) if len(name) <= _LONGEST_KEPT else _canonical.__wrapped__(name)


@lru_cache(1024)
def _canonical(name: str) -> str:
    name = name.strip().lower().removesuffix(":local")
    for prefix in ("registry.ollama.ai/library/", "registry.ollama.ai/", "library/"):
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def leaves_node(name: str) -> bool:
    """Whether Ollama forwards this name to its cloud: `:cloud`, or any name that ends in `-cloud`."""
    return name.strip().casefold().removesuffix(":local").endswith((":cloud", "-cloud"))
