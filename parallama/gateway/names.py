"""Names of models, and when two of them are one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
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


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` stands for the model: a name as Ollama looks it up, or one with `*`, `?` and `[...]` as
    in a shell, such as `llama3*` or `*:70b`, which then has to fit the whole name with its tag."""
    looked_up = canonical(name)
    return any(_pattern(pattern).fullmatch(looked_up) for pattern in patterns)


@lru_cache(1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    if any(sign in pattern for sign in "*?["):
        bare = pattern.strip().lower()
        return re.compile(translate(bare.removeprefix("registry.ollama.ai/").removeprefix("library/")))
    return re.compile(re.escape(canonical(pattern)))


def leaves_node(name: str) -> bool:
    """Whether Ollama forwards this name to its cloud: `:cloud`, or any name that ends in `-cloud`."""
    return name.strip().casefold().removesuffix(":local").endswith((":cloud", "-cloud"))
